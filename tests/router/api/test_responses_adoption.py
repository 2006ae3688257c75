"""Background responses whose edge dies: exactly one other edge takes each over, and clients see one sequence of events.

An edge that dies is one whose event loop is never run again: like a killed process it says nothing, renews nothing and
closes nothing. Leases end by a clock that is set by hand.
"""

import asyncio
import json
import time
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from router.api.responses_adoption import GIVE_UP_S, MAX_RUNS
from router.api.responses_service import Responses
from router.api.responses_types import ResponseBody
from router.auth import note_client
from router.config import StoreSection
from router.errors import InvalidRequest, NotFound
from router.service import READINESS_TTL_S, ServedModel
from router.store import LEASE_S, ResponseStore
from router.store_rows import StoredResponse
from tests.router.fakes.hand_backend import HandBackend
from tests.router.fakes.hand_server import hand_service
from tests.router.fakes.scripts import answer, call
from tests.support.postgres import running_postgres

TEXT = "word " * 40
OWNER = "ab12cd34" * 8
"""A key's digest; its name is the beginning."""
Event = dict[str, Any]


@dataclass
class HandClock:
    """Seconds since the epoch, set by hand."""

    now_s: float = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now_s


class Edge:
    """An edge without its server."""

    def __init__(self, url: str, clock: HandClock, backend: HandBackend) -> None:
        self.backend = backend
        self.store = ResponseStore(StoreSection(url=url), clock)
        self.responses = Responses(hand_service(backend), self.store)

    async def make(self, **fields: Any) -> str:
        """Begin a background response and return its id."""
        body = ResponseBody.model_validate({"model": "hand", "input": "Hi", "background": True, **fields})
        note_client(OWNER[:8])
        job = await self.responses.start(body, OWNER)
        await self.responses.run_in_background(job)
        return job.stored.id

    async def told(self, response_id: str, after: int = -1) -> list[Event]:
        """Return the events behind a sequence number, to the last."""
        stored = await self.responses.find(OWNER, response_id)
        return [json.loads(sent.data) async for sent in self.responses.follow(stored, after)]

    async def ended(self, response_id: str) -> StoredResponse:
        """Return a response once it is over."""
        await self.told(response_id)
        return await self.responses.find(OWNER, response_id)

    def num_left(self) -> int:
        """Return what of this edge still runs."""
        return self.backend.num_open + self.responses.service._admission.num_running + len(self.responses._live)


@pytest.fixture(scope="module")
def postgres() -> Generator[str]:
    with running_postgres() as url:
        yield url


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/responses.sqlite"


def talker(ids: list[int] | None = None, **fields: Any) -> HandBackend:
    return HandBackend(answer(TEXT) if ids is None else ids, delay_s=0.02, **fields)


@contextmanager
def dead_edge(edge: Edge, begin: Callable[[], Coroutine[Any, Any, str]], num_events: int) -> Generator[str]:
    """Yield the id of a response of which an edge kept some events, and then died with more to say."""
    loop = asyncio.new_event_loop()

    async def run() -> str:
        response_id = await begin()
        deadline_s = time.monotonic() + 20
        while len(await edge.store.events(response_id, -1)) < num_events:
            assert time.monotonic() < deadline_s, "no event was kept"
            await asyncio.sleep(0.05)
        return response_id

    try:
        yield loop.run_until_complete(run())
    finally:
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
        edge.store.close()


def run(work: Coroutine[Any, Any, None], *edges: Edge) -> None:
    """Run what edges do, and check that nothing of them is left."""

    async def checked() -> None:
        try:
            await work
            await asyncio.sleep(0.05)
            assert [edge.num_left() for edge in edges] == [0] * len(edges)
        finally:
            for edge in edges:
                await edge.responses.close()

    asyncio.run(checked())


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_exactly_one_edge_goes_on_and_clients_see_one_sequence(
    database: str, url: str, request: pytest.FixtureRequest
) -> None:
    """The same tokens by the same seed; events that were told stay as they were; cut otherwise, they are the same."""
    url = url if database == "sqlite" else request.getfixturevalue("postgres")
    clock = HandClock()
    first = Edge(url, clock, talker())
    others = [Edge(url, clock, talker(tokens_per_event=number + 1)) for number in range(3)]
    with dead_edge(first, lambda: first.make(temperature=0.5), 8) as response_id:

        async def work() -> None:
            kept = [json.loads(line) for line in await others[0].store.events(response_id, -1)]
            following = asyncio.create_task(others[0].told(response_id, 3))
            assert await asyncio.gather(*(one.responses.adopt() for one in others)) == [0, 0, 0], "it is leased still"
            clock.now_s += LEASE_S + 1
            assert (await others[0].responses.find(OWNER, response_id)).status in {"queued", "in_progress"}

            assert sum(await asyncio.gather(*(one.responses.adopt() for one in others))) == 1
            assert sum(await asyncio.gather(*(one.responses.adopt() for one in others))) == 0

            ended = await others[1].ended(response_id)
            assert ended.status == "completed"
            assert (ended.request, ended.is_lost) == (None, False)
            events = [await one.told(response_id) for one in others]
            assert events[0] == events[1] == events[2]
            whole = events[0]
            assert whole[: len(kept)] == kept
            assert await following == whole[4:]
            assert [event["sequence_number"] for event in whole] == list(range(len(whole)))
            deltas = [event["delta"] for event in whole if event["type"] == "response.output_text.delta"]
            assert "".join(deltas) == TEXT == whole[-1]["response"]["output"][-1]["content"][0]["text"]
            (again,) = [one for edge in others for one in edge.backend.requests]
            (asked,) = first.backend.requests
            assert replace(again, sequence_id="") == replace(asked, sequence_id="")
            assert (again.tenant, again.cache_salt) == (OWNER[:8], OWNER[:8]), "it runs for the key that asked"

        run(work(), *others)


def test_an_edge_that_was_only_slow_hears_that_another_has_taken_over(url: str) -> None:
    """It stops, writes nothing more, and its own clients read on what the other one says."""
    clock = HandClock()
    slow, other = Edge(url, clock, talker()), Edge(url, clock, talker())

    async def work() -> None:
        response_id = await slow.make()
        following = asyncio.create_task(slow.told(response_id))
        await asyncio.sleep(0.1)
        clock.now_s += LEASE_S + 1
        assert await other.responses.adopt() == 1
        whole = await other.told(response_id)
        assert whole[-1]["response"]["status"] == "completed"
        assert await following == whole
        assert slow.backend.aborted == [slow.backend.requests[0].sequence_id]
        assert (await slow.ended(response_id)).status == "completed"

    run(work(), slow, other)


def test_sealed_reasoning_that_was_told_stays_as_it_was(url: str) -> None:
    """A seal is another one each time; the whole answer has the one that was told."""
    clock = HandClock()
    first, other = Edge(url, clock, talker()), Edge(url, clock, talker())
    with dead_edge(first, lambda: first.make(include=["reasoning.encrypted_content"]), 14) as response_id:

        async def work() -> None:
            clock.now_s += LEASE_S + 1
            assert await other.responses.adopt() == 1
            events = await other.told(response_id)
            (done, *_) = [event["item"] for event in events if event["type"] == "response.output_item.done"]
            assert done["encrypted_content"]
            assert events[-1]["response"]["output"][0] == done

        run(work(), other)


def failed_in_words(edge: Edge, clock: HandClock, response_id: str, words: str, wait_s: float = LEASE_S + 1) -> None:
    """Let `edge` look for lost responses, and check how this one has failed."""

    async def work() -> None:
        kept = await edge.store.events(response_id, -1)
        clock.now_s += wait_s
        await edge.responses.adopt()
        events = await edge.told(response_id)
        failed = (await edge.ended(response_id)).response
        assert failed["status"] == "failed"
        assert words in failed["error"]["message"]
        assert [json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode() for event in events[:-1]] == kept
        assert (events[-1]["type"], events[-1]["sequence_number"]) == ("response.failed", len(kept))
        assert [item["type"] for item in failed["output"]] == ["reasoning"], "what was finished is not lost"

    run(work(), edge)


@pytest.mark.parametrize(
    ("backend", "words"),
    [
        (talker(answer("other")), "could not repeat"),
        (talker(call("f", "{}")), "could not repeat"),
        (talker(error=RuntimeError("inside"), fails_after=2), "failed"),
    ],
    ids=["another answer", "a call", "an engine that fails"],
)
def test_what_cannot_be_repeated_fails_truthfully(url: str, backend: HandBackend, words: str) -> None:
    clock = HandClock()
    first, other = Edge(url, clock, talker()), Edge(url, clock, backend)
    with dead_edge(first, first.make, 14) as response_id:
        failed_in_words(other, clock, response_id, words)


def test_a_response_that_was_left_for_too_long_fails(url: str) -> None:
    clock = HandClock()
    first, other = Edge(url, clock, talker()), Edge(url, clock, talker())
    with dead_edge(first, first.make, 14) as response_id:
        failed_in_words(other, clock, response_id, "stopped before it was done", LEASE_S + GIVE_UP_S)


def test_a_response_that_ends_edge_after_edge_is_given_to_no_further_one(url: str) -> None:
    clock = HandClock()
    first, other = Edge(url, clock, talker()), Edge(url, clock, talker())
    with dead_edge(first, first.make, 14) as response_id:

        async def wear_out() -> None:
            for _ in range(MAX_RUNS - 1):
                clock.now_s += LEASE_S + 1
                taker = ResponseStore(StoreSection(url=url), clock)
                assert await taker.take(response_id)
                assert not await taker.take(response_id)
                taker.close()

        asyncio.run(wear_out())
        failed_in_words(other, clock, response_id, f"begun {MAX_RUNS} times")


def test_an_edge_that_is_not_ready_full_or_another_leaves_it_for_later(url: str) -> None:
    """With another model or other numerics it would say something else; elsewhere it may well go on."""
    clock = HandClock()
    ready = HandBackend().readiness
    first, other = Edge(url, clock, talker()), Edge(url, clock, talker(readiness=replace(ready, is_ready=False)))
    with dead_edge(first, first.make, 8) as response_id:

        async def work() -> None:
            clock.now_s += LEASE_S + 1
            assert await other.responses.adopt() == 0
            other.backend.readiness = replace(ready, fingerprint="another")
            assert await other.responses.adopt() == 0
            other.backend.readiness, own = ready, other.responses.service.model
            other.responses.service.model = ServedModel("another")
            await asyncio.sleep(READINESS_TTL_S + 0.1)
            assert await other.responses.adopt() == 0
            other.responses.service.model = own
            admission = other.responses.service._admission
            places = [admission.admit() for _ in range(other.responses.service.limits.max_running_requests)]
            assert await other.responses.adopt() == 0
            (lost,) = await other.store.lost(10)
            assert (lost.id, lost.num_runs) == (response_id, 1)
            for place in places:
                place.release()
            assert await other.responses.adopt() == 1
            assert (await other.ended(response_id)).status == "completed"

        run(work(), other)


def test_a_lost_response_is_cancelled_deleted_and_not_gone_on_from(url: str) -> None:
    clock = HandClock()
    first, other = Edge(url, clock, talker()), Edge(url, clock, talker())
    with (
        dead_edge(first, first.make, 14) as cancelled,
        dead_edge(second := Edge(url, clock, talker()), second.make, 8) as deleted,
    ):

        async def work() -> None:
            clock.now_s += LEASE_S + 1
            with pytest.raises(InvalidRequest, match="not over yet"):
                await other.make(previous_response_id=cancelled)
            assert (await other.responses.cancel(OWNER, cancelled)).status == "cancelled"
            await other.responses.delete(OWNER, deleted)
            assert await other.responses.adopt() == 0
            last = (await other.told(cancelled))[-1]
            assert (last["type"], last["response"]["status"]) == ("response.incomplete", "cancelled")
            with pytest.raises(NotFound):
                await other.responses.find(OWNER, deleted)

        run(work(), other)


def test_one_that_is_cancelled_while_it_is_repeated_ends_as_it_was_told(url: str) -> None:
    clock = HandClock()
    first, other = Edge(url, clock, talker()), Edge(url, clock, HandBackend(answer(TEXT), delay_s=0.2))
    with dead_edge(first, first.make, 14) as response_id:

        async def work() -> None:
            clock.now_s += LEASE_S + 1
            kept = await other.store.events(response_id, -1)
            assert await other.responses.adopt() == 1
            assert (await other.responses.cancel(OWNER, response_id)).status == "cancelled"
            events = await other.told(response_id)
            assert [event["sequence_number"] for event in events] == list(range(len(kept) + 1))
            assert events[-1]["response"]["status"] == "cancelled"

        run(work(), other)
