"""Sequences leave a replica that is to go while it still runs: no token lost, repeated or changed, nobody held up."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

import pytest

from cluster.engine.sequence import TokenEvent
from cluster.token_stream_pool import TokenStreamPool
from router.hand_over import Attempt, leaving
from router.inbox import Inbox
from router.journal import Journal, Resume, ResumeLimits
from router.ray_backend import InboxSink, RayBackend
from tests.router.test_backend import LIMITS, SECRET, LocalCalls, NoStatus, Replica, eventually, read, run, tokens
from tests.support.hand_engine import HandEngine, hand_request

NUM_TOKENS = 400


@dataclass
class Pair:
    """Two replicas, calls that go to the first until told otherwise, and the backend before them."""

    first: Replica
    second: Replica
    calls: LocalCalls
    backend: RayBackend

    def first_leaves(self, fingerprint: str = "fingerprint") -> None:
        """Let Serve choose the second only, which has these numerics."""
        self.calls.replica = self.second
        self.backend.follow({self.second.address: fingerprint})

    @property
    def num_live(self) -> int:
        """Return how many sequences both engines run."""
        return self.first.engine.num_live + self.second.engine.num_live


@asynccontextmanager
async def pair_of_replicas(limits: ResumeLimits | None = None) -> AsyncGenerator[Pair, None]:
    first, second = (Replica(HandEngine(max_sequences=64, step_s=0.002)) for _ in range(2))
    inbox, calls = Inbox(), LocalCalls(first)
    streams = TokenStreamPool("edge", SECRET, InboxSink(inbox), LIMITS)
    backend = RayBackend(calls, streams, NoStatus(), inbox, limits or ResumeLimits(max_resumes=0))
    backend.follow({first.address: "fingerprint", second.address: "fingerprint"})
    pair = Pair(first, second, calls, backend)
    try:
        yield pair
        await eventually(lambda: pair.num_live == backend.num_open == 0)
        await eventually(lambda: first.sequences.num_open == second.sequences.num_open == 0)
    finally:
        streams.close()
        for replica in (first, second):
            replica.engine.stop()
            replica.stream.stop()


def assert_whole(events: list[TokenEvent], num_tokens: int = NUM_TOKENS) -> None:
    first = tokens(events)[0]
    assert tokens(events) == list(range(first, first + num_tokens))
    assert [event.index for event in events] == list(range(num_tokens))


def test_a_sequence_goes_on_at_another_replica_and_the_one_that_leaves_is_empty_at_once() -> None:
    async def scenario() -> None:
        async with pair_of_replicas() as pair:
            reader = asyncio.create_task(read(pair.backend, hand_request("s", max_tokens=NUM_TOKENS)))
            await eventually(lambda: pair.first.engine.num_live == 1)
            await asyncio.sleep(0.1)
            pair.first_leaves()
            await eventually(lambda: pair.first.engine.num_live == 0)
            assert pair.first.engine.aborted == [("s", 0)]
            events = await reader
            assert_whole(events)
            assert {event.attempt for event in events} == {0, 1}

    run(scenario())


def test_many_sequences_move_a_few_at_a_time_and_all_are_whole() -> None:
    async def scenario() -> None:
        async with pair_of_replicas(ResumeLimits(max_resumes=0, max_concurrent=3)) as pair:
            requests = [hand_request(f"s{n}", prompt_end=1000 * n, max_tokens=NUM_TOKENS) for n in range(24)]
            readers = [asyncio.create_task(read(pair.backend, request)) for request in requests]
            await eventually(lambda: pair.first.engine.num_live == 24)
            pair.first_leaves()
            for events in await asyncio.gather(*readers):
                assert_whole(events)
                assert max(event.attempt for event in events) == 1
            assert len(pair.first.engine.aborted) == 24

    run(scenario())


def test_a_reader_that_does_not_read_does_not_hold_the_replica_and_misses_nothing() -> None:
    async def scenario() -> None:
        async with pair_of_replicas() as pair:
            async with aclosing(pair.backend.generate(hand_request("s", max_tokens=NUM_TOKENS), 20.0)) as events:
                read_late = [await anext(events)]
                pair.first_leaves()
                await eventually(lambda: pair.first.engine.aborted == [("s", 0)])
                await eventually(lambda: pair.first.sequences.num_open == 0)
                await asyncio.sleep(0.1)
                read_late += [event async for event in events]
            assert_whole(read_late)

    run(scenario())


@pytest.mark.parametrize("goes_elsewhere", ["nobody", "another fingerprint"])
def test_a_sequence_stays_where_it_is_while_nobody_can_go_on_with_it(goes_elsewhere: str) -> None:
    async def scenario() -> None:
        async with pair_of_replicas() as pair:
            reader = asyncio.create_task(read(pair.backend, hand_request("s", max_tokens=NUM_TOKENS)))
            await eventually(lambda: pair.first.engine.num_live == 1)
            if goes_elsewhere == "nobody":
                pair.backend.follow({})
            else:
                pair.first_leaves(goes_elsewhere)
            events = await reader
            assert_whole(events)
            assert {event.attempt for event in events} == {0}

    run(scenario())


def test_it_moves_once_somebody_comes_who_can_go_on_with_it() -> None:
    async def scenario() -> None:
        async with pair_of_replicas() as pair:
            reader = asyncio.create_task(read(pair.backend, hand_request("s", max_tokens=NUM_TOKENS)))
            await eventually(lambda: pair.first.engine.num_live == 1)
            pair.backend.follow({})
            await asyncio.sleep(0.1)
            assert pair.first.engine.num_live == 1
            pair.first_leaves()
            await eventually(lambda: pair.second.engine.num_live == 1)
            assert_whole(await reader)

    run(scenario())


def test_a_client_that_leaves_in_the_middle_of_a_move_is_not_resumed() -> None:
    async def scenario() -> None:
        async with pair_of_replicas() as pair:
            async with aclosing(pair.backend.generate(hand_request("s", max_tokens=NUM_TOKENS), 20.0)) as events:
                await anext(events)
                pair.first_leaves()
                await eventually(lambda: pair.first.engine.num_live == 0)
            await asyncio.sleep(0.05)
            assert pair.num_live == 0

    run(scenario())


def test_a_move_is_no_loss_and_a_cancelled_choice_does_not_move() -> None:
    journal = Journal(hand_request("s"), ResumeLimits(max_resumes=0))
    journal.next_attempt()
    assert [journal.on_moved() for _ in range(3)] == [Resume(0.0)] * 3
    journal.cancel()
    assert journal.on_moved() is None


def test_only_what_runs_where_nobody_is_sent_and_can_go_on_elsewhere_is_to_move() -> None:
    async def scenario() -> None:
        inbox = Inbox()

        def attempt(name: str, source: str | None, fingerprint: str | None, is_moved: bool = False) -> Attempt:
            one = Attempt(hand_request(name), inbox.open(name, 0), fingerprint=fingerprint, is_moved=is_moved)
            one.subscription.source = source
            return one

        goes, stays = attempt("goes", "old", "x"), attempt("stays", "new", "x")
        waits, other = attempt("waits", None, None), attempt("other", "old", "y")
        moved = attempt("moved", "old", "x", is_moved=True)
        attempts = [goes, stays, waits, other, moved]

        assert leaving(attempts, {"new": "x"}) == [goes]
        assert leaving(attempts, {"new": "x", "old": "x"}) == []
        assert leaving(attempts, {"new": "x", "third": "y"}) == [], "whoever is chosen may be the third"
        assert leaving(attempts, {}) == []

    run(scenario())
