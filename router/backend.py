"""Backend: the seam between the API and whatever makes tokens. And StandaloneBackend, an engine in this process.

`generate` is the whole life of a sequence: an async iterator of token events that ends with the one that carries a
finish reason. Closing it early, cancelling its task, or passing its deadline aborts the sequence: ending, failing and
leaving are one path. Errors are those of `cluster.errors`, and DeadlinePassed.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Protocol

from cluster.cluster_status import BalanceStatus
from cluster.engine.sequence import SequenceRequest, TokenEvent
from cluster.engine.stats import EngineStats
from cluster.errors import EngineStopped
from router.inbox import Inbox

STOPPED = "stopped"
"""The stage of an engine that takes no more sequences."""


@dataclass(frozen=True, slots=True)
class ComponentProgress:
    """How far one part of the backend has come."""

    name: str
    stage: str
    progress: float
    """0 .. 1 of the stage."""
    is_ready: bool = False
    detail: str = ""
    role: str = ""
    """What it is one of several of, such as `worker`; empty for a part that is alone."""
    done: int = 0
    total: int = 0
    """What has been done of the stage, in parts; 0 of 0 if it has none."""


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether the backend can serve, and if not, how far it has come."""

    is_ready: bool
    stage: str
    """In a few words what it does now: `loading experts`, `ready`."""
    progress: float = 0.0
    """0 .. 1 over all parts."""
    detail: str = ""
    fingerprint: str | None = None
    """Numerics fingerprint of the attention side, once known: the API's `system_fingerprint`."""
    kernel_backend: str | None = None
    max_context_tokens: int | None = None
    """Prompt plus output of one sequence that the engine takes, once known."""
    placement: str | None = None
    """For people: where the experts are."""
    components: tuple[ComponentProgress, ...] = ()


@dataclass(frozen=True, slots=True)
class BackendStats:
    """Sums over all engines behind the backend, at one moment."""

    num_running: int = 0
    num_waiting: int = 0
    num_used_blocks: int = 0
    """KV blocks in use, both groups together."""
    num_free_blocks: int = 0
    num_tokens: int = 0
    """Tokens sampled since the engines started."""
    num_preemptions: int = 0
    num_drafted: int = 0
    """Tokens that were guessed ahead and computed."""
    num_accepted: int = 0
    """Of those, the ones that were right."""
    num_engines: int = 0
    balance: BalanceStatus | None = None
    """How evenly expert workers share the traffic; None where nothing is balanced, or not yet."""
    num_rescued: int = 0
    """Experts that workers hold in place of workers that are away."""


class Backend(Protocol):
    """What makes tokens."""

    def generate(self, request: SequenceRequest, timeout_s: float) -> AsyncGenerator[TokenEvent, None]:
        """Yield the events of a sequence until its end; closing the generator aborts it.

        Raises QueueFull or ContextOverflow before the first event, EngineStopped at any time, and DeadlinePassed
        once `timeout_s` are over.
        """
        ...

    async def ready(self) -> Readiness:
        """Return whether requests can be served now; answers quickly also while the backend loads."""
        ...

    async def stats(self) -> BackendStats:
        """Return the engines' counts."""
        ...


class EngineDriver(Protocol):
    """What a backend needs of an engine's thread; `cluster.engine` has the real one."""

    def admit(self, request: SequenceRequest) -> None:
        """Take a sequence in, or raise QueueFull, ContextOverflow or EngineStopped."""
        ...

    def abort(self, sequence_id: str, attempt: int | None = None) -> None:
        """End a sequence; an unknown one is no matter."""
        ...

    def stats(self) -> EngineStats:
        """Return the counts of this moment."""
        ...

    @property
    def stopped_because(self) -> str | None:
        """Return why the engine takes no more sequences, or None while it does."""
        ...


class StandaloneBackend:
    """Serves from one engine in this process, once that is attached; until then it tells how far loading has come."""

    def __init__(self) -> None:
        """Start without an engine."""
        self._engine: EngineDriver | None = None
        self._readiness = Readiness(is_ready=False, stage="starting")
        self._inbox = Inbox()

    def report(self, readiness: Readiness) -> None:
        """Take how far loading has come, from any thread."""
        self._readiness = readiness

    def attach(self, engine: EngineDriver, readiness: Readiness) -> None:
        """Serve from `engine` from now on, from any thread. Its events are to come by `on_step`."""
        self._engine = engine
        self._readiness = readiness

    def on_step(self, events: list[TokenEvent]) -> None:
        """Take the events of one step, from the engine's thread."""
        self._inbox.deliver(events)

    async def generate(self, request: SequenceRequest, timeout_s: float) -> AsyncGenerator[TokenEvent, None]:
        """Yield the events of a sequence until its end; closing the generator aborts it."""
        engine = self._engine
        if engine is None:
            raise EngineStopped(f"the engine is not there yet: {self._readiness.stage}")
        subscription = self._inbox.open(request.sequence_id, request.attempt)
        is_over = False
        try:
            engine.admit(request)
            async with aclosing(subscription.events(timeout_s)) as events:
                async for event in events:
                    is_over = event.finish_reason is not None
                    yield event
        finally:
            self._inbox.close(subscription)
            if not is_over:
                engine.abort(request.sequence_id, request.attempt)

    async def ready(self) -> Readiness:
        """Return whether requests can be served now; an engine that has stopped does not come back."""
        reason = None if self._engine is None else self._engine.stopped_because
        if reason is None:
            return self._readiness
        parts = tuple(
            replace(part, stage=STOPPED, is_ready=False, detail=reason) for part in self._readiness.components
        )
        return replace(self._readiness, is_ready=False, stage=STOPPED, progress=0.0, detail=reason, components=parts)

    async def stats(self) -> BackendStats:
        """Return the engine's counts."""
        return BackendStats() if self._engine is None else backend_stats(self._engine.stats())

    @property
    def num_open(self) -> int:
        """Return how many sequences are read."""
        return self._inbox.num_open


def backend_stats(stats: EngineStats) -> BackendStats:
    """Return one engine's counts as a backend's."""
    used, free = stats.num_used_blocks, stats.num_free_blocks
    return BackendStats(
        num_running=stats.num_running,
        num_waiting=stats.num_waiting,
        num_used_blocks=used.full + used.sliding,
        num_free_blocks=free.full + free.sliding,
        num_tokens=stats.num_tokens,
        num_preemptions=stats.num_preemptions,
        num_drafted=stats.num_drafted,
        num_accepted=stats.num_accepted,
        num_engines=1,
    )
