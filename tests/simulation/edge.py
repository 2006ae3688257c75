"""The edge in simulated time: the real journal of every sequence, and the token streams from attention replicas."""

from collections.abc import Callable
from dataclasses import dataclass, field

from cluster.engine.sequence import FinishReason, SequenceRequest, TokenEvent
from cluster.errors import EngineStopped
from router.journal import Fail, Journal, Release, Resume, ResumeLimits
from tests.simulation.attention import AttentionProcess
from tests.simulation.workers import DETECTION_S, NETWORK_S, REPEATED
from tests.simulation.world import World

LOST = 0.003
"""Share of a stream's messages that never come."""
LIMITS = ResumeLimits(max_resumes=20, max_wait_s=1000.0)


@dataclass(eq=False)
class Received:
    """One sequence as its client sees it."""

    request: SequenceRequest
    journal: Journal
    token_ids: list[int] = field(default_factory=list[int])
    finish_reason: FinishReason | None = None
    was_cancelled: bool = False
    attempt: int = 0
    runs_on: AttentionProcess | None = None
    """Who was asked last; None before the first attempt and between two."""


class TokenStream:
    """Events from one life of a replica, in order; broken when it dies or the network between fails."""

    def __init__(self, world: World, process: AttentionProcess, on_events: Callable[[list[TokenEvent]], None]) -> None:
        self._world, self.process, self._on_events = world, process, on_events
        self._last_arrival_s = 0.0
        self.is_broken = False

    def publish(self, events: list[TokenEvent]) -> None:
        """Send a step's events on their way; some get lost or come twice, though gRPC would not let them."""
        chance = self._world.chance
        if chance.random() < LOST and all(event.finish_reason is None for event in events):
            self._world.note("the tokens of a step get lost")
            return
        arrival_s = max(self._last_arrival_s, self._world.now_s() + chance.random() * NETWORK_S)
        self._last_arrival_s = arrival_s
        for _ in range(2 if chance.random() < REPEATED else 1):
            self._world.later(arrival_s - self._world.now_s(), lambda: self._arrive(events))

    def _arrive(self, events: list[TokenEvent]) -> None:
        if not self.is_broken:
            self._on_events(events)


class Edge:
    """Asks replicas for sequences, and again for what is missing when one is lost."""

    def __init__(
        self, world: World, requests: list[SequenceRequest], find: Callable[[], AttentionProcess | None]
    ) -> None:
        """Send `requests` when told to; `find` gives a replica that takes sequences, if there is one."""
        self._world, self._find = world, find
        self.received = {one.sequence_id: Received(one, Journal(one, LIMITS)) for one in requests}
        self._stream: TokenStream | None = None

    @property
    def is_done(self) -> bool:
        """Return whether every sequence has ended."""
        return all(one.finish_reason is not None for one in self.received.values())

    def connect(self, process: AttentionProcess) -> None:
        """Open the stream of a new life of the replica."""
        stream = self._stream = TokenStream(self._world, process, self._take)
        process.on_events = stream.publish

    def ask(self, one: Received) -> None:
        """Ask for the next attempt at a sequence."""
        attempt = one.journal.next_attempt()
        process = self._find()
        if attempt is None:
            return
        if process is None:
            self._lost(one, was_running=False)
            return
        one.runs_on, one.attempt = process, attempt.attempt
        one.journal.bind("paper")
        self._world.soon(NETWORK_S, lambda: self._admit(one, attempt, process))

    def cancel(self, one: Received) -> None:
        """Let the client of a sequence leave."""
        if one.finish_reason is None:
            one.was_cancelled = True
            one.finish_reason = FinishReason.ABORT
            one.journal.cancel()
            if one.runs_on is not None:
                _abort(one, one.runs_on, None)

    def move(self) -> None:
        """Let every sequence go on elsewhere, as when its replica is to go; here that is the same replica again."""
        self._world.note("all sequences move")
        for one in self.received.values():
            if one.runs_on is not None and one.finish_reason is None:
                process, attempt = one.runs_on, one.attempt
                self._do(one, one.journal.on_moved())
                self._world.soon(NETWORK_S, lambda one=one, p=process, a=attempt: _abort(one, p, a))

    def cut(self) -> None:
        """Let the network between edge and replica fail: the stream breaks at both ends."""
        if self._stream is not None and not self._stream.is_broken:
            self._world.note("the token stream breaks")
            process = self._stream.process
            self._break(self._stream)
            if process.is_alive:
                self.connect(process)

    def died(self, process: AttentionProcess) -> None:
        """Notice a replica's death after a while; what it sent before may still arrive."""
        stream = self._stream
        if stream is not None and stream.process is process:
            self._world.soon(DETECTION_S, lambda: self._break(stream))

    def _admit(self, one: Received, attempt: SequenceRequest, process: AttentionProcess) -> None:
        if one.was_cancelled:
            return  # the call was cancelled on its way
        if process.is_alive:
            process.admit(attempt)
        else:
            self._lost(one, was_running=True)

    def _take(self, events: list[TokenEvent]) -> None:
        for event in events:
            one = self.received[event.sequence_id]
            self._do(one, one.journal.on_event(event, self._world.now_s()))

    def _break(self, stream: TokenStream) -> None:
        if not stream.is_broken:
            stream.is_broken = True
            for one in self.received.values():
                if one.runs_on is stream.process and one.finish_reason is None:
                    self._lost(one, was_running=True)

    def _lost(self, one: Received, was_running: bool) -> None:
        one.runs_on = None
        self._do(one, one.journal.on_lost(EngineStopped("its replica is gone"), was_running, self._world.now_s()))

    def _do(self, one: Received, action: Release | Resume | Fail | None) -> None:
        match action:
            case Release(event):
                assert not one.was_cancelled, f"{event.sequence_id} goes on after its client has left"
                assert one.finish_reason is None, f"{event.sequence_id} goes on after its end"
                assert event.index == len(one.token_ids), f"{event.sequence_id}: {event.index}, {len(one.token_ids)}"
                one.token_ids.extend(event.token_ids)
                one.finish_reason = event.finish_reason
            case Resume(pause_s):
                one.runs_on = None
                self._world.later(pause_s, lambda: self.ask(one))
            case Fail(error):
                raise AssertionError(f"{one.request.sequence_id} was given up: {error}")
            case None:
                pass


def _abort(one: Received, process: AttentionProcess, attempt: int | None) -> None:
    """Cancel the call of an attempt, or of any, if its replica lives."""
    if process.is_alive:
        process.abort(one.request.sequence_id, attempt)
