"""HandEngine: an engine whose tokens can be worked out by hand, behind the interface of the real one.

A sequence whose prompt ends with token p gets p + 1, p + 2, … one a step, until `max_tokens`.
"""

import threading
import time
from collections.abc import Callable

from cluster.engine.blocks import BlockCount
from cluster.engine.sequence import FinishReason, SequenceRequest, TokenEvent
from cluster.engine.stats import EngineStats
from cluster.errors import ContextOverflow, EngineStopped, QueueFull
from model.sampling_params import SamplingParams


class HandEngine:
    """Steps by itself every `step_s` on a thread, or only when `step` is called."""

    def __init__(self, max_sequences: int = 8, max_context_tokens: int = 1000, step_s: float | None = None) -> None:
        self.on_step: Callable[[list[TokenEvent]], None] = lambda _: None
        self.aborted: list[tuple[str, int | None]] = []
        self._max_sequences = max_sequences
        self._max_context_tokens = max_context_tokens
        self._lock = threading.Lock()
        self._live: dict[str, tuple[SequenceRequest, int]] = {}
        self._is_stopped = False
        if step_s is not None:
            self._thread = threading.Thread(target=self._run, args=(step_s,), daemon=True)
            self._thread.start()

    def admit(self, request: SequenceRequest) -> None:
        if len(request.prompt_ids) - request.num_released + request.params.max_tokens > self._max_context_tokens:
            raise ContextOverflow(f"{request.sequence_id} is too long")
        with self._lock:
            if self._is_stopped:
                raise EngineStopped("the hand engine was stopped")
            if len(self._live) >= self._max_sequences:
                raise QueueFull(f"{self._max_sequences} sequences run")
            self._live[request.sequence_id] = (request, request.num_released)

    def abort(self, sequence_id: str, attempt: int | None = None) -> None:
        with self._lock:
            self.aborted.append((sequence_id, attempt))
            found = self._live.pop(sequence_id, None)
        if found is not None:
            request, index = found
            self.on_step([TokenEvent(sequence_id, request.attempt, index, (), finish_reason=FinishReason.ABORT)])

    def step(self) -> None:
        """Give every sequence its next token."""
        with self._lock:
            events = [self._next(request, index) for request, index in list(self._live.values())]
        if events:
            self.on_step(events)

    def stop(self) -> None:
        with self._lock:
            self._is_stopped = True

    def stats(self) -> EngineStats:
        with self._lock:
            running = len(self._live)
        return EngineStats(running, 1, BlockCount(10, 20), BlockCount(4, 15), 100, 50, 0, 3, 0.5)

    @property
    def stopped_because(self) -> str | None:
        return "the hand engine was stopped" if self._is_stopped else None

    @property
    def num_live(self) -> int:
        with self._lock:
            return len(self._live)

    def _next(self, request: SequenceRequest, index: int) -> TokenEvent:
        is_last = index + 1 == request.params.max_tokens
        if is_last:
            del self._live[request.sequence_id]
        else:
            self._live[request.sequence_id] = (request, index + 1)
        reason = FinishReason.LENGTH if is_last else None
        token_id = request.prompt_ids[-1 - request.num_released] + index + 1
        return TokenEvent(request.sequence_id, request.attempt, index, (token_id,), finish_reason=reason)

    def _run(self, step_s: float) -> None:
        while not self._is_stopped:
            self.step()
            time.sleep(step_s)


def hand_request(sequence_id: str, prompt_end: int = 100, max_tokens: int = 3, attempt: int = 0) -> SequenceRequest:
    """Return a request; its tokens are prompt_end + 1, prompt_end + 2 and so on."""
    return SequenceRequest(sequence_id, (7, prompt_end), SamplingParams(max_tokens=max_tokens, seed=0), attempt=attempt)
