"""RayBackend: sequences on attention replicas, tokens by the token stream. Knows neither Ray nor gRPC itself.

One call per sequence stays open for its life: routing, counting, autoscaling and cancelling go by it. Its tokens come
beside it, one message a step for all sequences of this edge.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Protocol

from cluster.cluster_status import ClusterStatus
from cluster.engine.sequence import SequenceRequest, TokenEvent
from cluster.errors import ClusterError, EngineStopped, ReplicaLeaves
from cluster.sequence_end import SequenceEnd
from router.backend import BackendStats, Readiness
from router.errors import DeadlinePassed
from router.hand_over import Attempt, HandOver
from router.inbox import Inbox
from router.journal import Fail, Journal, Release, Resume, ResumeLimits
from router.readiness import readiness_of, stats_of
from router.resume_gate import ResumeGate

END_GRACE_S = 5.0
"""How long the call of a finished sequence may stay open, and its last event may lag behind the call's return."""


class ChosenReplica(Protocol):
    """The attention replica that a sequence was routed to."""

    @property
    def address(self) -> str:
        """Return where its token stream listens, as host:port."""
        ...

    async def hold(self, request: SequenceRequest, edge_id: str) -> SequenceEnd:
        """Run a sequence there until its end; cancelling this aborts it. Raises EngineStopped if the replica dies."""
        ...


class AttentionCalls(Protocol):
    """How sequences reach attention replicas."""

    def choose(self, request: SequenceRequest) -> AbstractAsyncContextManager[ChosenReplica]:
        """Pick a replica and keep a place on it. Raises QueueFull or EngineStopped."""
        ...


class Streams(Protocol):
    """The token streams of this edge."""

    @property
    def edge_id(self) -> str:
        """Return the name by which replicas know this edge."""
        ...

    async def ensure(self, address: str) -> str:
        """Return the engine's numerics fingerprint once its stream is up. Raises EngineStopped or HandshakeRefused."""
        ...


class ControlPlane(Protocol):
    """What knows how the cluster stands."""

    async def status(self) -> ClusterStatus | None:
        """Return the newest status; None if there is none to be had yet."""
        ...


class InboxSink:
    """Fills an inbox from token streams."""

    def __init__(self, inbox: Inbox) -> None:
        """Fill `inbox`."""
        self._inbox = inbox

    def deliver(self, source: str, events: list[TokenEvent]) -> None:
        """Take the events of one step of one engine."""
        self._inbox.deliver(events)

    def broken(self, source: str, reason: str) -> None:
        """Fail what waits for an engine whose stream broke: its missing tokens will never come by this stream."""
        self._inbox.fail_source(source, reason)


class RayBackend:
    """Serves from the attention replicas of a cluster; what one leaves that dies or is to go is resumed on another."""

    def __init__(
        self,
        calls: AttentionCalls,
        streams: Streams,
        control: ControlPlane,
        inbox: Inbox,
        limits: ResumeLimits | None = None,
    ) -> None:
        """Route by `calls`, read what `streams` leave in `inbox`, and ask `control` how the cluster stands."""
        self._calls = calls
        self._streams = streams
        self._control = control
        self._inbox = inbox
        self._limits = limits or ResumeLimits()
        self._resumes = ResumeGate(self._limits.max_concurrent)
        self._hand_over = HandOver(inbox, self._resumes)
        self._holders: set[asyncio.Task[None]] = set()

    async def generate(self, request: SequenceRequest, timeout_s: float) -> AsyncGenerator[TokenEvent, None]:
        """Yield the events of a sequence until its end; closing the generator aborts it and resumes it never."""
        journal = Journal(request, self._limits)
        deadline_s = asyncio.get_running_loop().time() + timeout_s
        try:
            while (attempt := journal.next_attempt()) is not None:
                async with aclosing(self._run(journal, attempt, timeout_s, deadline_s)) as actions:
                    async for action in actions:
                        if isinstance(action, Fail):
                            raise action.error
                        if isinstance(action, Resume):
                            await _pause(action.pause_s, timeout_s, deadline_s)
                            break
                        yield action.event
        finally:
            journal.cancel()

    def follow(self, routed: Mapping[str, str]) -> None:
        """Take which replicas may be chosen, their fingerprints by address; what others still run is moved to them."""
        self._hand_over.routed(routed)

    async def ready(self) -> Readiness:
        """Return how far the cluster has come."""
        return readiness_of(await self._control.status())

    async def stats(self) -> BackendStats:
        """Return the sums over all attention replicas."""
        return stats_of(await self._control.status())

    @property
    def num_open(self) -> int:
        """Return how many sequences this edge has under way, calls that are about to end included."""
        return len(self._holders) + self._inbox.num_open

    async def _run(
        self, journal: Journal, request: SequenceRequest, timeout_s: float, deadline_s: float
    ) -> AsyncGenerator[Release | Resume | Fail, None]:
        """Yield what the journal makes of one attempt, up to its end or its loss."""
        subscription = self._inbox.open(request.sequence_id, request.attempt)
        attempt = Attempt(request, subscription)
        attempt.holder = holder = asyncio.create_task(self._hold(journal, attempt))
        self._hand_over.begin(attempt)
        self._holders.add(holder)
        holder.add_done_callback(self._holders.discard)
        is_over = False
        try:
            async with aclosing(subscription.events(timeout_s, deadline_s)) as events:
                async for event in events:
                    self._resumes.leave(subscription)
                    is_over = event.finish_reason is not None
                    action = journal.on_event(event, subscription.loop.time())
                    if action is not None:
                        yield action
        except ClusterError as error:
            is_moved = isinstance(error, ReplicaLeaves)
            now_s = subscription.loop.time()
            action = journal.on_moved() if is_moved else journal.on_lost(error, attempt.is_held, now_s)
            if action is not None:
                yield action
        finally:
            self._hand_over.end(attempt)
            self._inbox.close(subscription)
            self._resumes.leave(subscription)
            _end(holder, END_GRACE_S if is_over else 0.0)

    async def _hold(self, journal: Journal, attempt: Attempt) -> None:
        """Keep the sequence's call open until its end; whatever goes wrong with it fails the subscription."""
        subscription = attempt.subscription
        try:
            if journal.is_resumed:
                await self._resumes.enter(subscription)
            async with self._calls.choose(attempt.request) as replica:
                # Named before the stream is up: a stream that breaks from here on fails this sequence.
                subscription.source = replica.address
                fingerprint = await self._streams.ensure(replica.address)
                journal.bind(fingerprint)
                attempt.fingerprint = fingerprint
                self._hand_over.look()  # it may have been told to go since it was chosen
                end = await replica.hold(attempt.request, self._streams.edge_id)
        except ClusterError as error:
            self._inbox.fail(subscription, error)
            return
        if end.error is not None:
            attempt.fingerprint = None  # it was never taken in
            self._inbox.fail(subscription, end.error)
            return
        # No matter to a subscription that has ended by then, as it should.
        missing = EngineStopped(f"sequence {attempt.request.sequence_id} ended, but its last token never came")
        subscription.loop.call_later(END_GRACE_S, self._inbox.fail, subscription, missing)


async def _pause(pause_s: float, timeout_s: float, deadline_s: float) -> None:
    """Wait before the next attempt, but not beyond the request's deadline."""
    if asyncio.get_running_loop().time() + pause_s > deadline_s:
        raise DeadlinePassed(f"The request ran longer than {timeout_s:g} s and was ended.")
    await asyncio.sleep(pause_s)


def _end(holder: "asyncio.Task[None]", grace_s: float) -> None:
    """Cancel a call that is of no use any more; one whose sequence has ended gets a moment to return by itself."""
    if grace_s == 0.0:
        holder.cancel()
        return
    timer = holder.get_loop().call_later(grace_s, holder.cancel)
    holder.add_done_callback(lambda _: timer.cancel())
