"""HeldSequences: the sequences of one attention replica, each a call that stays open from admission to its end.

    edge ── held call: run() ──▶ engine.admit … until on_step tells its end
    edge ◀── token stream ────── on_step: one message a step

Whatever ends a call (the sequence's end, the caller's cancelling, its edge's death) leaves nothing of it behind.
"""

import asyncio
import logging
from typing import Protocol

from cluster.engine.sequence import FinishReason, SequenceRequest, TokenEvent
from cluster.errors import EngineError
from cluster.sequence_end import SequenceEnd

_Key = tuple[str, int]
_Ends = list[tuple[_Key, FinishReason]]

logger = logging.getLogger(__name__)


class Engine(Protocol):
    """`cluster.engine.engine_thread.EngineThread`, as far as it is used here."""

    def admit(self, request: SequenceRequest) -> None:
        """Take a sequence in, or raise an EngineError."""
        ...

    def abort(self, sequence_id: str, attempt: int | None = None) -> None:
        """End a sequence, or one attempt at it; its last event follows."""
        ...


class Stream(Protocol):
    """`cluster.token_stream.TokenStreamServer`, as far as it is used here."""

    def open(self, sequence_id: str, attempt: int, edge_id: str) -> None:
        """Send the attempt's events to an edge, or raise EngineStopped."""
        ...

    def close(self, sequence_id: str, attempt: int) -> None:
        """Send them no more."""
        ...

    def publish(self, events: list[TokenEvent]) -> None:
        """Queue the events of a step; never blocks."""
        ...

    @property
    def num_open(self) -> int:
        """Return how many sequences are open."""
        ...


class HeldSequences:
    """Runs sequences in one event loop; the engine tells of its steps from a thread of its own."""

    def __init__(self, engine: Engine, stream: Stream) -> None:
        """Admit to `engine` and send tokens by `stream`."""
        self._engine = engine
        self._stream = stream
        self._ended: dict[_Key, asyncio.Future[FinishReason]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    async def run(self, request: SequenceRequest, edge_id: str) -> SequenceEnd:
        """Run an attempt at a sequence to its end; its tokens go to `edge_id`. Cancelling aborts it.

        Returns at once with a refusal if it cannot be taken in.
        """
        self._loop = asyncio.get_running_loop()
        key = request.sequence_id, request.attempt
        try:
            self._stream.open(*key, edge_id)
        except EngineError as error:
            return SequenceEnd.refused(error)
        ended = self._ended[key] = self._loop.create_future()
        try:
            self._engine.admit(request)
            return SequenceEnd(await ended)
        except EngineError as error:
            return SequenceEnd.refused(error)
        except asyncio.CancelledError:
            self._engine.abort(*key)
            raise
        finally:
            del self._ended[key]
            self._stream.close(*key)

    def on_step(self, events: list[TokenEvent]) -> None:
        """Send the tokens of a step on their way and wake the calls that end; from the engine's thread."""
        self._stream.publish(events)
        ends: _Ends = [
            ((event.sequence_id, event.attempt), event.finish_reason)
            for event in events
            if event.finish_reason is not None
        ]
        if ends and self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._end_all, ends)

    def abort_all(self, sequence_ids: list[str]) -> None:
        """End the sequences of an edge that is gone, from any thread."""
        logger.warning("an edge is gone; its %d sequences are aborted", len(sequence_ids))
        for sequence_id in sequence_ids:
            self._engine.abort(sequence_id)

    @property
    def num_open(self) -> int:
        """Return how many calls are held open."""
        return len(self._ended)

    def check_integrity(self) -> None:
        """Assert that calls and stream agree; from the event loop."""
        assert self._stream.num_open <= self.num_open, (self._stream.num_open, self.num_open)

    def _end_all(self, ends: _Ends) -> None:
        for key, reason in ends:
            ended = self._ended.get(key)
            if ended is not None and not ended.done():
                ended.set_result(reason)
