"""The last known status: nobody waits long for a newer one, and nothing holds the event loop up."""

import asyncio
import threading
import time
from collections.abc import Awaitable

import pytest

from cluster.cluster_status import ClusterStatus
from router.supervisor_status import ANSWER_TIMEOUT_S, PATIENCE_S, TTL_S, Ask, SupervisorStatus

NUM_READERS = 20


class Gone(Exception):
    """The supervisor's process died."""


class Cluster:
    """A supervisor whose n-th answer has epoch n, and the way to find it; both may be slow, lost or stuck."""

    def __init__(self) -> None:
        self.num_found = self.num_asked = 0
        self.is_gone = False
        self.answer_s = 0.0
        self.can_be_found = threading.Event()
        self.can_be_found.set()
        self.status = SupervisorStatus(self.find, (Gone,))

    def find(self) -> Ask:
        assert threading.current_thread() is not threading.main_thread(), "found on the event loop"
        self.can_be_found.wait(10)
        self.num_found += 1
        return self.ask

    async def ask(self) -> ClusterStatus:
        self.num_asked += 1
        epoch = self.num_asked
        await asyncio.sleep(self.answer_s)
        if self.is_gone:
            raise Gone("it died")
        return ClusterStatus("abc", epoch, 0, 1, ())

    async def epoch(self) -> int | None:
        """Return the epoch of the status that is to be had now."""
        status = await self.status.status()
        return None if status is None else status.epoch


def run(scenario: Awaitable[None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, 20))


async def timed(epoch: Awaitable[int | None]) -> tuple[int | None, float]:
    began_s = time.monotonic()
    return await epoch, time.monotonic() - began_s


def test_a_fresh_answer_is_kept_for_a_moment_and_the_supervisor_is_looked_up_once() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        assert [await cluster.epoch() for _ in range(5)] == [1] * 5
        await asyncio.sleep(TTL_S)
        assert await cluster.epoch() == 2
        assert (cluster.num_found, cluster.num_asked) == (1, 2)

    run(scenario())


def test_many_readers_ask_once() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        cluster.answer_s = 0.1
        assert await asyncio.gather(*(cluster.epoch() for _ in range(NUM_READERS))) == [1] * NUM_READERS
        assert cluster.num_asked == 1

    run(scenario())


def test_a_slow_answer_leaves_the_last_one_and_is_taken_when_it_comes() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        assert await cluster.epoch() == 1
        cluster.answer_s = 0.5
        await asyncio.sleep(TTL_S)
        answers = await asyncio.gather(*(timed(cluster.epoch()) for _ in range(NUM_READERS)))
        assert {epoch for epoch, _ in answers} == {1}
        assert max(wait_s for _, wait_s in answers) < PATIENCE_S + 0.2
        epoch, wait_s = await timed(cluster.epoch())
        assert (epoch, wait_s < 0.1) == (1, True), "patience is for the question, not for each who asks"
        await asyncio.sleep(0.4)
        assert await cluster.epoch() == 2

    run(scenario())


def test_one_that_is_lost_is_looked_up_again_while_the_loop_runs_on() -> None:
    """The second look-up is stuck, as it is while the cluster's control is away; other tasks do not notice."""

    async def scenario() -> None:
        cluster = Cluster()
        assert await cluster.epoch() == 1
        cluster.is_gone = True
        await asyncio.sleep(TTL_S)
        assert await cluster.epoch() == 1
        cluster.is_gone = False
        cluster.can_be_found.clear()
        await asyncio.sleep(TTL_S)
        epoch, wait_s = await timed(cluster.epoch())
        assert (epoch, wait_s < PATIENCE_S + 0.2) == (1, True)
        cluster.can_be_found.set()
        await asyncio.sleep(TTL_S)
        await cluster.epoch()
        assert await cluster.epoch() != 1
        assert cluster.num_found == 2

    run(scenario())


def test_before_the_first_answer_there_is_none() -> None:
    async def scenario() -> None:
        cluster = Cluster()
        cluster.answer_s = 10 * ANSWER_TIMEOUT_S
        epoch, wait_s = await timed(cluster.epoch())
        assert epoch is None
        assert wait_s == pytest.approx(ANSWER_TIMEOUT_S, abs=0.5)

    run(scenario())
