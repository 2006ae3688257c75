"""EdgeRig: an engine, and the edge over it, in this process as `serve` of the standalone form runs them.

    direct turn    main thread ──admit──▶ engine ──events──▶ main thread
    edge turn      reader process ──HTTP──▶ edge thread ──admit──▶ engine ──events──▶ edge thread ──▶ reader process

The requests that the edge admits are kept: a direct turn gives the engine the very same ones.
"""

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import uvicorn

from cluster.engine.sequence import SequenceRequest, TokenEvent
from cluster.engine.stats import EngineStats
from cluster.standalone import Standalone
from model.tokenizer import Tokenizer
from router.app import create_app, uvicorn_config
from router.auth import KeyRing
from router.backend import Readiness, StandaloneBackend
from router.config import Config
from router.edge_bench.turn import Turn
from router.errors import StartFailed
from router.service import InferenceService

START_TIMEOUT_S = 60.0
STEP_TIMEOUT_S = 600.0
_LOOPBACK = "127.0.0.1"
Steps = queue.SimpleQueue[tuple[float, list[TokenEvent]]]


class EdgeRig:
    """A loaded model that is asked directly and over HTTP. A context manager: leaving it ends both."""

    def __init__(self, standalone: Standalone, config: Config) -> None:
        """Take over `standalone`, which has not been started."""
        self._standalone = standalone
        self._backend = StandaloneBackend()
        self._tap = _Tap(standalone, self._backend)
        self._steps: Steps | None = None
        http = config.edge.http.model_copy(update={"host": _LOOPBACK, "port": 0})
        self._service = InferenceService(self._backend, Tokenizer(), config)
        self._server = uvicorn.Server(uvicorn_config(create_app(self._service, config, KeyRing()), http))
        self._thread = threading.Thread(target=self._serve, name="edge")
        self._turns = 0

    @property
    def model(self) -> str:
        """Return what the model is called."""
        return self._service.model.name

    @property
    def address(self) -> tuple[str, int]:
        """Return host and port."""
        return _LOOPBACK, self._server.servers[0].sockets[0].getsockname()[1]

    @property
    def num_preemptions(self) -> int:
        """Return how often the engine took a sequence's place away, since its start."""
        return self._standalone.engine.stats().num_preemptions

    def __enter__(self) -> "EdgeRig":
        self._standalone.start(self._on_step)
        self._backend.attach(self._tap, self._readiness())
        self._thread.start()
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline_s:
                raise StartFailed("the edge did not come up")
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(START_TIMEOUT_S)
        self._standalone.stop()

    def direct(self, seeds: list[list[int]]) -> Turn:
        """Give the engine the requests with these seeds as the edge gave them, each stream's one after another."""
        self._turns += 1
        steps: Steps = queue.SimpleQueue()
        self._steps = steps
        turn = Turn()
        waiting = {stream: list(one) for stream, one in enumerate(seeds)}
        streams: dict[str, int] = {}
        began_s = time.process_time()

        def ask(stream: int) -> None:
            if waiting[stream]:
                seed = waiting[stream].pop(0)
                request = replace(self._tap.requests[seed], sequence_id=f"direct-{self._turns}-{seed}")
                streams[request.sequence_id] = stream
                turn.admit(time.monotonic(), request)
                self._standalone.engine.admit(request)

        for stream in waiting:
            ask(stream)
        while streams:
            at_s, events = steps.get(timeout=STEP_TIMEOUT_S)
            turn.take(at_s, events)
            for event in events:
                if event.finish_reason is not None:
                    ask(streams.pop(event.sequence_id))
        turn.cpu_s = time.process_time() - began_s
        self._steps = None
        return turn

    def tapped(self, ask: Callable[[], None]) -> Turn:
        """Return what the engine was given and said while `ask` runs, which asks the edge."""
        turn = self._tap.turn = Turn()
        began_s = time.process_time()
        ask()
        turn.cpu_s = time.process_time() - began_s
        self._tap.turn = None
        return turn

    def check_integrity(self) -> None:
        """Assert that nothing of what was asked is left in engine or edge."""
        self._standalone.engine.check_integrity()
        stats = self._standalone.engine.stats()
        assert stats.num_running == stats.num_waiting == self._backend.num_open == 0, stats

    def _on_step(self, events: list[TokenEvent]) -> None:
        at_s = time.monotonic()
        if self._steps is not None:
            self._steps.put((at_s, events))
            return
        if self._tap.turn is not None:
            self._tap.turn.take(at_s, events)
        self._backend.on_step(events)

    def _serve(self) -> None:
        asyncio.run(self._server.serve())

    def _readiness(self) -> Readiness:
        return Readiness(
            is_ready=True,
            stage="ready",
            progress=1.0,
            fingerprint=self._standalone.fingerprint,
            max_context_tokens=self._standalone.engine.limits.max_context_tokens,
        )


class _Tap:
    """The engine as the edge sees it; what passes is noted."""

    def __init__(self, standalone: Standalone, backend: StandaloneBackend) -> None:
        self._engine = standalone.engine
        self._backend = backend
        self.requests: dict[int, SequenceRequest] = {}
        """The last ones, by seed."""
        self.turn: Turn | None = None

    def admit(self, request: SequenceRequest) -> None:
        """Pass a request on."""
        self.requests[request.params.seed] = request
        if self.turn is not None:
            self.turn.admit(time.monotonic(), request)
        self._engine.admit(request)

    def abort(self, sequence_id: str, attempt: int | None = None) -> None:
        """Pass an abort on."""
        self._engine.abort(sequence_id, attempt)

    def stats(self) -> EngineStats:
        """Return the engine's counts."""
        return self._engine.stats()

    @property
    def stopped_because(self) -> str | None:
        """Return why the engine takes no more sequences."""
        return self._engine.stopped_because
