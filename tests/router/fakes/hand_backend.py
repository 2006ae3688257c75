"""HandBackend: a backend whose tokens are written down, so that the whole server is tested without a model.

A script maps to each sequence the ids that it gives, one event an id, as the engine would: it stops at a stop id, at
`max_tokens`, at a stop string never (the router does). Sequences are looked up by choice, then the default.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cluster.engine.sequence import FinishReason, SequenceRequest, TokenEvent
from model.sampling_params import TokenLogprob
from router.backend import BackendStats, Readiness

EOS_IDS = (200_002, 199_999, 200_012)
READY = Readiness(
    is_ready=True,
    stage="ready",
    progress=1.0,
    fingerprint="hand",
    kernel_backend="by hand",
    max_context_tokens=3072,
)


@dataclass
class HandBackend:
    """Gives `script[choice]`, or `default`; remembers what it was asked and what was aborted."""

    default: Sequence[int] = ()
    script: Mapping[int, Sequence[int]] = field(default_factory=dict)
    error: Exception | None = None
    fails_after: int = 0
    """With `error`: events given before it is raised."""
    refusal: str | None = None
    """What the engine says of a grammar that it cannot follow, known only when that was compiled."""
    delay_s: float = 0.0
    """Before each event."""
    tokens_per_event: int = 1
    num_cached: int = 0
    queued_s: float = 0.0
    readiness: Readiness = READY
    requests: list[SequenceRequest] = field(default_factory=list)
    aborted: list[str] = field(default_factory=list)
    num_open: int = 0

    async def generate(self, request: SequenceRequest, timeout_s: float) -> AsyncGenerator[TokenEvent, None]:
        """Yield the script's tokens."""
        self.requests.append(request)
        self.num_open += 1
        is_over = False
        try:
            for number, event in enumerate(self._events(request)):
                if self.error is not None and number >= self.fails_after:
                    raise self.error
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                is_over = event.finish_reason is not None
                yield event
        finally:
            self.num_open -= 1
            if not is_over:
                self.aborted.append(request.sequence_id)

    async def ready(self) -> Readiness:
        """Return what it was told."""
        return self.readiness

    async def stats(self) -> BackendStats:
        """Return counts that can be told apart."""
        return BackendStats(
            num_running=self.num_open,
            num_waiting=2,
            num_used_blocks=3,
            num_free_blocks=4,
            num_drafted=9,
            num_accepted=7,
        )

    def _events(self, request: SequenceRequest) -> Iterator[TokenEvent]:
        params = request.params
        if self.refusal is not None:
            why: dict[str, Any] = {"finish_reason": FinishReason.REFUSED, "error": self.refusal}
            yield TokenEvent(request.sequence_id, request.attempt, 0, (), **why)
            return
        ids = list(self.script.get(params.choice, self.default))
        stops = set(params.stop_token_ids) | (set() if params.ignore_eos else set(EOS_IDS))
        end = next((place + 1 for place, token_id in enumerate(ids) if token_id in stops), len(ids))
        ids = ids[:end][: params.max_tokens]
        is_stopped = bool(ids) and ids[-1] in stops
        for first in range(0, max(len(ids), 1), self.tokens_per_event):
            some = tuple(ids[first : first + self.tokens_per_event])
            is_last = first + self.tokens_per_event >= len(ids)
            reason = (FinishReason.STOP if is_stopped else FinishReason.LENGTH) if is_last else None
            yield TokenEvent(
                sequence_id=request.sequence_id,
                attempt=request.attempt,
                index=first,
                token_ids=some,
                logprobs=tuple(_logprob(one, params.num_logprobs) for one in some if params.num_logprobs is not None),
                finish_reason=reason,
                stop_reason=some[-1] if reason is FinishReason.STOP else None,
                num_cached=self.num_cached,
                queued_s=self.queued_s,
            )


def _logprob(token_id: int, num_top: int | None) -> TokenLogprob:
    """Return logprobs that can be computed in the head: -id/1000, and ids 0, 1, … with -1, -2 and so on."""
    return TokenLogprob(token_id, -token_id / 1000, tuple((place, -1.0 - place) for place in range(num_top or 0)))
