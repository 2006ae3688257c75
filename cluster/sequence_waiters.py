"""SequenceWaiters: the held-open calls of an attention replica, waiting for the engine to end their sequences.

The engine's thread tells of ends once a step; the event loop is woken once a step at most.
"""

import asyncio
from collections.abc import Iterable

from cluster.engine.sequence import FinishReason, TokenEvent

_Key = tuple[str, int]


class SequenceWaiters:
    """Futures by (sequence id, attempt). Lives in one event loop, except `finish`, which any thread may call."""

    def __init__(self) -> None:
        """Start empty."""
        self._futures: dict[_Key, asyncio.Future[FinishReason]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    def open(self, sequence_id: str, attempt: int) -> "asyncio.Future[FinishReason]":
        """Return a future of how an attempt ends."""
        self._loop = asyncio.get_running_loop()
        key = sequence_id, attempt
        assert key not in self._futures, f"sequence {sequence_id} is waited for already, at attempt {attempt}"
        future = self._futures[key] = self._loop.create_future()
        return future

    def close(self, sequence_id: str, attempt: int) -> None:
        """Wait for it no more."""
        self._futures.pop((sequence_id, attempt), None)

    def finish(self, events: Iterable[TokenEvent]) -> None:
        """Tell the ends among the events of a step, from the engine's thread."""
        ends = [
            ((event.sequence_id, event.attempt), event.finish_reason)
            for event in events
            if event.finish_reason is not None
        ]
        if ends and self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._resolve, ends)

    @property
    def num_open(self) -> int:
        """Return how many calls wait."""
        return len(self._futures)

    def _resolve(self, ends: list[tuple[_Key, FinishReason]]) -> None:
        for key, reason in ends:
            future = self._futures.get(key)
            if future is not None and not future.done():
                future.set_result(reason)
