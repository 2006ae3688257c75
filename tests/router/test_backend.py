"""What every backend promises, held against both: an engine in this process, and one behind calls and token streams.

The second one is all of RayBackend's path except Ray: real token streams over sockets, real held sequences.
"""

import asyncio
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field

import pytest

from cluster.cluster_status import ClusterStatus
from cluster.engine.sequence import FinishReason, SequenceRequest, TokenEvent
from cluster.errors import ContextOverflow, EngineStopped, QueueFull
from cluster.held_sequences import HeldSequences
from cluster.sequence_end import SequenceEnd
from cluster.token_stream import ReplicaIdentity, StreamLimits, TokenStreamServer
from cluster.token_stream_pool import TokenStreamPool
from router.backend import Backend, ComponentProgress, Readiness, StandaloneBackend
from router.errors import DeadlinePassed
from router.inbox import Inbox
from router.journal import ResumeLimits
from router.ray_backend import InboxSink, RayBackend
from tests.support.hand_engine import HandEngine, hand_request

LIMITS = StreamLimits(timeout_s=2.0)
SECRET = "a secret for tests"


@dataclass
class Replica:
    """An attention replica without Ray: its engine, and its token stream on a real socket."""

    engine: HandEngine
    lost: list[str] = field(default_factory=list[str])

    def __post_init__(self) -> None:
        identity = ReplicaIdentity("replica", "fingerprint")
        self.stream = TokenStreamServer(identity, SECRET, LIMITS, self._on_lost)
        self.address = self.stream.start("127.0.0.1")
        self.sequences = HeldSequences(self.engine, self.stream)
        self.engine.on_step = self.sequences.on_step

    def _on_lost(self, sequence_ids: list[str]) -> None:
        self.lost.extend(sequence_ids)
        self.sequences.abort_all(sequence_ids)


class LocalCalls:
    """Calls to one replica in this process, as Serve would carry them."""

    def __init__(self, replica: Replica) -> None:
        self.replica = replica
        self.is_dead = asyncio.Event()

    @asynccontextmanager
    async def choose(self, request: SequenceRequest) -> AsyncGenerator["LocalCalls", None]:
        yield self

    @property
    def address(self) -> str:
        return self.replica.address

    async def hold(self, request: SequenceRequest, edge_id: str) -> SequenceEnd:
        run = asyncio.create_task(self.replica.sequences.run(request, edge_id))
        death = asyncio.create_task(self.is_dead.wait())
        try:
            await asyncio.wait([run, death], return_when=asyncio.FIRST_COMPLETED)
            if self.is_dead.is_set():
                raise EngineStopped("the attention replica is gone: its process died")
            return run.result()
        finally:
            run.cancel()
            death.cancel()


class NoStatus:
    """A control plane that has not answered yet."""

    async def status(self) -> ClusterStatus | None:
        return None


@dataclass
class Rig:
    """A backend with the engine behind it."""

    backend: Backend
    engine: HandEngine
    num_open: Callable[[], int]
    """Everything that is open anywhere: subscriptions, calls, streams' sequences."""


@asynccontextmanager
async def standalone_rig(engine: HandEngine) -> AsyncGenerator[Rig, None]:
    backend = StandaloneBackend()
    engine.on_step = backend.on_step
    backend.attach(engine, Readiness(is_ready=True, stage="ready"))
    yield Rig(backend, engine, lambda: backend.num_open)


@asynccontextmanager
async def ray_rig(engine: HandEngine) -> AsyncGenerator[Rig, None]:
    replica, inbox = Replica(engine), Inbox()
    streams = TokenStreamPool("edge", SECRET, InboxSink(inbox), LIMITS)
    backend = RayBackend(LocalCalls(replica), streams, NoStatus(), inbox, ResumeLimits(max_wait_s=0.2))
    try:
        yield Rig(backend, engine, lambda: backend.num_open + replica.sequences.num_open + replica.stream.num_open)
        replica.stream.check_integrity()
    finally:
        streams.close()
        replica.stream.stop()


@pytest.fixture(params=[standalone_rig, ray_rig], ids=["standalone", "ray"])
def rig_of(request: pytest.FixtureRequest) -> Callable:
    return request.param


def run(scenario: Awaitable[None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, 30))


async def read(backend: Backend, request: SequenceRequest, timeout_s: float = 20.0) -> list[TokenEvent]:
    async with aclosing(backend.generate(request, timeout_s)) as events:
        return [event async for event in events]


async def eventually(claim: Callable[[], bool]) -> None:
    for _ in range(2000):
        if claim():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("the claim did not come true")


def tokens(events: list[TokenEvent]) -> list[int]:
    return [token_id for event in events for token_id in event.token_ids]


def test_a_sequence_yields_its_tokens_and_ends_with_its_finish_reason(rig_of: Callable) -> None:
    async def scenario() -> None:
        async with rig_of(HandEngine(step_s=0.002)) as rig:
            events = await read(rig.backend, hand_request("s", prompt_end=40, max_tokens=5))
            assert tokens(events) == [41, 42, 43, 44, 45]
            assert [event.finish_reason for event in events] == [None] * 4 + [FinishReason.LENGTH]
            await eventually(lambda: rig.num_open() == 0)
            assert rig.engine.aborted == []

    run(scenario())


def test_many_sequences_at_once_each_get_their_own_tokens(rig_of: Callable) -> None:
    async def scenario() -> None:
        async with rig_of(HandEngine(max_sequences=64, step_s=0.001)) as rig:
            requests = [hand_request(f"s{n}", prompt_end=1000 * n, max_tokens=3 + n % 7) for n in range(40)]
            answers = await asyncio.gather(*(read(rig.backend, request) for request in requests))
            for n, events in enumerate(answers):
                assert tokens(events) == [1000 * n + 1 + index for index in range(3 + n % 7)]
            await eventually(lambda: rig.num_open() == 0)

    run(scenario())


def test_closing_the_generator_aborts_the_sequence(rig_of: Callable) -> None:
    async def scenario() -> None:
        async with rig_of(HandEngine(step_s=0.002)) as rig:
            async with aclosing(rig.backend.generate(hand_request("s", max_tokens=900), 20.0)) as events:
                await anext(events)
            await eventually(lambda: rig.engine.aborted == [("s", 0)])
            await eventually(lambda: rig.num_open() == 0)
            assert rig.engine.num_live == 0

    run(scenario())


def test_cancelling_the_reader_aborts_the_sequence(rig_of: Callable) -> None:
    async def scenario() -> None:
        async with rig_of(HandEngine(step_s=0.002)) as rig:
            reader = asyncio.create_task(read(rig.backend, hand_request("s", max_tokens=900)))
            await eventually(lambda: rig.engine.num_live == 1)
            reader.cancel()
            await eventually(lambda: rig.engine.num_live == 0)
            await eventually(lambda: rig.num_open() == 0)

    run(scenario())


def test_a_deadline_ends_the_sequence_and_says_so(rig_of: Callable) -> None:
    async def scenario() -> None:
        async with rig_of(HandEngine(step_s=0.01)) as rig:
            with pytest.raises(DeadlinePassed, match=r"longer than 0\.3 s"):
                await read(rig.backend, hand_request("s", max_tokens=900), timeout_s=0.3)
            await eventually(lambda: rig.engine.num_live == 0)
            await eventually(lambda: rig.num_open() == 0)

    run(scenario())


def test_a_full_engine_refuses_before_the_first_event(rig_of: Callable) -> None:
    async def scenario() -> None:
        async with rig_of(HandEngine(max_sequences=1)) as rig:
            first = asyncio.create_task(read(rig.backend, hand_request("first")))
            await eventually(lambda: rig.engine.num_live == 1)
            with pytest.raises(QueueFull, match="1 sequences run"):
                await read(rig.backend, hand_request("second"))
            for _ in range(3):
                rig.engine.step()
            assert tokens(await first) == [101, 102, 103]

    run(scenario())


def test_a_sequence_that_does_not_fit_is_refused(rig_of: Callable) -> None:
    async def scenario() -> None:
        async with rig_of(HandEngine(max_context_tokens=10)) as rig:
            with pytest.raises(ContextOverflow, match="s is too long"):
                await read(rig.backend, hand_request("s", max_tokens=9))
            await eventually(lambda: rig.num_open() == 0)

    run(scenario())


def test_a_stopped_engine_refuses(rig_of: Callable) -> None:
    async def scenario() -> None:
        async with rig_of(HandEngine()) as rig:
            rig.engine.stop()
            with pytest.raises(EngineStopped):
                await read(rig.backend, hand_request("s"))

    run(scenario())


def test_events_may_come_from_any_thread_while_others_are_read(rig_of: Callable) -> None:
    async def scenario() -> None:
        async with rig_of(HandEngine()) as rig:
            reader = asyncio.create_task(read(rig.backend, hand_request("s", max_tokens=50)))
            await eventually(lambda: rig.engine.num_live == 1)
            threads = [threading.Thread(target=rig.engine.step) for _ in range(50)]
            for thread in threads:
                thread.start()
                thread.join()
            assert tokens(await reader) == list(range(101, 151))

    run(scenario())


def test_standalone_without_an_engine_says_what_it_waits_for() -> None:
    async def scenario() -> None:
        backend = StandaloneBackend()
        backend.report(Readiness(is_ready=False, stage="loading experts", progress=0.5))
        assert (await backend.ready()).progress == 0.5
        with pytest.raises(EngineStopped, match="loading experts"):
            await read(backend, hand_request("s"))

    run(scenario())


def test_standalone_with_a_stopped_engine_is_not_ready_and_says_why() -> None:
    async def scenario() -> None:
        engine = HandEngine()
        backend = StandaloneBackend()
        part = ComponentProgress("model", "ready", 1.0, is_ready=True)
        backend.attach(engine, Readiness(is_ready=True, stage="ready", fingerprint="hand", components=(part,)))
        assert (await backend.ready()).is_ready
        engine.stop()
        readiness = await backend.ready()
        assert (readiness.is_ready, readiness.stage, readiness.fingerprint) == (False, "stopped", "hand")
        assert readiness.detail == readiness.components[0].detail == "the hand engine was stopped"
        assert not readiness.components[0].is_ready

    run(scenario())


def test_stats_are_the_engines() -> None:
    async def scenario() -> None:
        async with standalone_rig(HandEngine()) as rig:
            stats = await rig.backend.stats()
            assert (stats.num_used_blocks, stats.num_free_blocks) == (6 + 5, 4 + 15)
            assert (stats.num_waiting, stats.num_tokens, stats.num_preemptions, stats.num_engines) == (1, 100, 3, 1)

    run(scenario())


def test_a_choice_goes_on_at_another_replica_when_its_own_dies() -> None:
    async def scenario() -> None:
        first, second, inbox = Replica(HandEngine(step_s=0.002)), Replica(HandEngine(step_s=0.002)), Inbox()
        calls = LocalCalls(first)
        streams = TokenStreamPool("edge", SECRET, InboxSink(inbox), LIMITS)
        backend = RayBackend(calls, streams, NoStatus(), inbox)
        reader = asyncio.create_task(read(backend, hand_request("s", max_tokens=300)))
        await eventually(lambda: first.engine.num_live == 1)
        await asyncio.sleep(0.1)
        calls.replica = second
        first.stream.stop()
        events = await reader
        first_id = tokens(events)[0]
        assert tokens(events) == list(range(first_id, first_id + 300))
        assert [event.index for event in events] == list(range(300))
        assert {event.attempt for event in events} == {0, 1}
        await eventually(lambda: backend.num_open == first.engine.num_live == second.engine.num_live == 0)
        streams.close()
        second.stream.stop()

    run(scenario())


def test_a_choice_that_kills_every_replica_fails_after_its_resumes() -> None:
    async def scenario() -> None:
        replica, inbox = Replica(HandEngine()), Inbox()
        calls = LocalCalls(replica)
        calls.is_dead.set()
        streams = TokenStreamPool("edge", SECRET, InboxSink(inbox), LIMITS)
        backend = RayBackend(calls, streams, NoStatus(), inbox, ResumeLimits(max_resumes=2, max_concurrent=1))
        with pytest.raises(EngineStopped, match="its process died"):
            await read(backend, hand_request("s", max_tokens=900))
        await eventually(lambda: backend.num_open == 0)
        streams.close()
        replica.stream.stop()

    run(scenario())


def test_the_death_of_an_edge_aborts_its_sequences_at_the_engine() -> None:
    async def scenario() -> None:
        replica, inbox = Replica(HandEngine(step_s=0.01)), Inbox()
        streams = TokenStreamPool("edge", SECRET, InboxSink(inbox), LIMITS)
        await streams.ensure(replica.address)
        held = asyncio.create_task(replica.sequences.run(hand_request("s", max_tokens=900), "edge"))
        await eventually(lambda: replica.engine.num_live == 1)
        streams.close()
        end = await held
        assert end.finish_reason is FinishReason.ABORT
        assert replica.lost == ["s"]
        assert replica.sequences.num_open == replica.stream.num_open == 0
        replica.stream.stop()

    run(scenario())
