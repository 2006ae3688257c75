"""Stored responses, on SQLite and on a real PostgreSQL: scope, expiry, bounds, leases, chains."""

import asyncio
import sqlite3
import stat
from collections.abc import AsyncGenerator, Awaitable, Coroutine, Generator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, inspect

from router.config import StoreSection, load_config
from router.errors import ConfigInvalid, NotFound, Unavailable
from router.store import LEASE_S, SWEEP_INTERVAL_S, ResponseStore
from router.store_rows import StoredResponse
from router.store_tables import DATA_VARIABLE, METADATA, checked_url, default_url, open_database
from tests.support.postgres import running_postgres

DAY_S = 86_400.0
START_S = 1_800_000_000.0


@dataclass
class HandClock:
    """A clock that is set by hand."""

    now_s: float = START_S

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture(scope="module")
def postgres() -> Generator[str]:
    with running_postgres() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of an empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/responses.sqlite"
    found: str = request.getfixturevalue("postgres")
    engine = create_engine(found.replace("postgresql://", "postgresql+psycopg://"))
    METADATA.drop_all(engine)
    engine.dispose()
    return found


@asynccontextmanager
async def opened(url: str, clock: HandClock, **section: Any) -> AsyncGenerator[ResponseStore]:
    store = ResponseStore(StoreSection(url=url, **section), clock)
    try:
        yield store
    finally:
        await asyncio.to_thread(store.close)


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


def id_of(number: int) -> str:
    return f"resp_{number:032x}"


def made(number: int, previous: int | None = None, owner: str = "me", **fields: Any) -> StoredResponse:
    response = {
        "id": id_of(number),
        "status": "completed",
        "background": False,
        "previous_response_id": None if previous is None else id_of(previous),
        "output": [],
    } | fields
    return StoredResponse(id_of(number), owner, response, [{"id": "a", "text": "😀\x00"}], "2026-11-22")


def test_what_is_put_is_got_and_deleted(url: str) -> None:
    async def work() -> None:
        async with opened(url, HandClock()) as store:
            await store.put(made(1), [b'{"a":1}', b'{"a":2}'])
            assert await store.get("me", id_of(1)) == made(1)
            assert await store.get("you", id_of(1)) is None
            assert not await store.delete("you", id_of(1))
            assert await store.delete("me", id_of(1))
            assert not await store.delete("me", id_of(1))
            assert await store.get("me", id_of(1)) is None
            assert await store.events(id_of(1), -1) == []

    run(work())


def test_an_id_that_is_none_is_not_looked_for(url: str) -> None:
    async def work() -> None:
        async with opened(url, HandClock()) as store:
            for wild in ("", "resp_", "x" * 10_000, "resp_" + "\x00" * 32, "' OR 1=1 --"):
                assert await store.get("me", wild) is None
                with pytest.raises(NotFound):
                    await store.chain("me", wild, 10)

    run(work())


def test_another_process_finds_what_was_stored(url: str) -> None:
    async def work() -> None:
        clock = HandClock()
        async with opened(url, clock) as first:
            await first.put(made(1))
            secret = await first.secret("one")
        async with opened(url, clock) as second:
            assert await second.get("me", id_of(1)) == made(1)
            assert await second.secret("one") == secret
            assert await second.secret("two") != secret

    run(work())


def test_events_are_given_behind_a_number_however_they_were_cut(url: str) -> None:
    async def work() -> None:
        lines = [b'{"n":%d}' % number for number in range(10)]
        async with opened(url, HandClock()) as store:
            await store.put(made(1), is_running=True)
            for first, last in ((0, 3), (3, 4), (4, 4), (4, 9)):
                assert await store.renew(id_of(1), first, lines[first:last])
            assert await store.end(made(1), 9, lines[9:])
            assert not await store.renew(id_of(1), 10, lines), "what is over says nothing more"
            for after in range(-1, 12):
                assert await store.events(id_of(1), after) == lines[after + 1 :]
            assert not await store.renew(id_of(2), 0, lines)
            assert await store.events(id_of(2), -1) == [], "a response that is not there has no events"

    run(work())


def test_a_response_expires_and_is_swept_away(url: str) -> None:
    async def work() -> None:
        clock = HandClock()
        async with opened(url, clock, expiry_days=2.0) as store:
            await store.put(made(1))
            clock.now_s += 2 * DAY_S - 1
            assert await store.get("me", id_of(1)) is not None
            clock.now_s += 1
            assert await store.get("me", id_of(1)) is None
            with pytest.raises(NotFound):
                await store.chain("me", id_of(1), 10)
            assert (await store.sweep()).num_responses == 0

    run(work())


def test_going_on_from_a_response_keeps_its_whole_chain(url: str) -> None:
    async def work() -> None:
        clock = HandClock()
        async with opened(url, clock, expiry_days=2.0) as store:
            await store.put(made(1))
            await store.put(made(2, previous=1))
            await store.put(made(3, previous=2))
            clock.now_s += DAY_S
            assert [one.id for one in await store.chain("me", id_of(3), 3)] == [id_of(1), id_of(2), id_of(3)]
            clock.now_s += DAY_S
            assert len(await store.chain("me", id_of(2), 3)) == 2
            with pytest.raises(NotFound, match=id_of(1)):
                await store.chain("me", id_of(3), 2)
            with pytest.raises(NotFound):
                await store.chain("you", id_of(3), 3)
            await store.delete("me", id_of(2))
            with pytest.raises(NotFound, match=id_of(2)):
                await store.chain("me", id_of(3), 3)

    run(work())


def test_beyond_the_most_responses_the_one_unused_for_longest_goes(url: str) -> None:
    async def work() -> None:
        clock = HandClock()
        async with opened(url, clock, max_responses=3) as store:
            for number in range(3):
                clock.now_s += 1
                await store.put(made(number))
            clock.now_s += 1
            await store.chain("me", id_of(0), 1)
            await store.put(made(3))
            there = [number for number in range(4) if await store.get("me", id_of(number))]
            assert there == [0, 2, 3]

    run(work())


def test_beyond_the_most_bytes_the_owner_who_holds_most_makes_room(url: str) -> None:
    async def work() -> None:
        clock = HandClock()
        async with opened(url, clock, max_bytes=20_000) as store:
            await store.put(made(0, owner="small"))
            for number in range(1, 40):
                clock.now_s += 1
                noise = "".join(chr(0x4E00 + (number * 7919 + place * 104_729) % 20_000) for place in range(400))
                await store.put(made(number, owner="large", noise=noise))
            assert await store.get("small", id_of(0)) is not None
            assert await store.get("large", id_of(1)) is None
            assert await store.get("large", id_of(39)) is not None
            left = await store.sweep()
            assert 10_000 < left.num_bytes <= 20_000

    run(work())


def test_events_count_as_bytes(url: str) -> None:
    async def work() -> None:
        async with opened(url, HandClock()) as store:
            await store.put(made(1), is_running=True)
            bare = (await store.sweep()).num_bytes
            await store.renew(id_of(1), 0, [b"x" * 1000])
            with_events = (await store.sweep()).num_bytes
            assert with_events > bare
            await store.end(made(1), 1, [])
            assert (await store.sweep()).num_bytes == with_events

    run(work())


def test_a_response_under_way_is_not_evicted_and_lost_when_its_lease_ends(url: str) -> None:
    async def work() -> None:
        clock = HandClock()
        async with opened(url, clock, max_responses=1) as store:
            await store.put(made(1, status="in_progress", background=True), is_running=True)
            clock.now_s += 1
            await store.put(made(2))
            assert await store.get("me", id_of(2)) is None
            running = await store.get("me", id_of(1))
            assert running is not None
            assert not running.is_lost
            clock.now_s += LEASE_S - 2
            assert await store.renew(id_of(1), 0, [])
            clock.now_s += LEASE_S
            lost = await store.get("me", id_of(1))
            assert lost is not None
            assert lost.is_lost
            failed = made(1, status="failed", background=True)
            await store.end_lost(failed, 0, [b"{}"])
            await store.end_lost(made(1, status="completed"), 1, [b"{}"])
            assert not await store.renew(id_of(1), 0, []), "whoever ran it hears of it"
            assert not await store.end(made(1, status="completed"), 0, [])
            assert await store.get("me", id_of(1)) == failed
            assert await store.events(id_of(1), -1) == [b"{}"]

    run(work())


def test_of_edges_that_take_a_lost_response_one_has_it_and_the_one_before_is_shut_out(url: str) -> None:
    async def work() -> None:
        clock = HandClock()
        running = replace(made(1, status="in_progress"), request={"input": "Hi"})
        async with opened(url, clock) as first, opened(url, clock) as second, opened(url, clock) as third:
            await first.put(running, is_running=True)
            assert await first.renew(id_of(1), 0, [b'{"n":0}'])
            assert (await second.lost(10), await second.take(id_of(1))) == ([], False)
            clock.now_s += LEASE_S + 2
            (lost,) = await second.lost(10)
            assert lost == replace(running, num_runs=1, lost_s=2.0)
            taken = await asyncio.gather(*(one.take(id_of(1)) for one in (second, third) * 5))
            assert sum(taken) == 1
            taker = second if any(taken[::2]) else third
            for shut_out in {first, second, third} - {taker}:
                assert not await shut_out.renew(id_of(1), 1, [b'{"n":1}'])
                assert not await shut_out.end(made(1), 1, [b'{"n":1}'])
                await shut_out.leave(lost)
            assert await taker.renew(id_of(1), 1, [b'{"n":2}'])
            await taker.leave(lost)
            assert (await first.lost(10)) == [lost], "it is lost as long as before, and that run does not count"
            assert await second.events(id_of(1), -1) == [b'{"n":0}', b'{"n":2}']

    run(work())


def test_a_database_that_was_made_before_is_brought_up_to_date(url: str) -> None:
    """Its responses are there still; one that was under way has nothing to be run again by."""

    async def work() -> None:
        clock = HandClock()
        async with opened(url, clock) as store:
            await store.put(made(1))
            await store.put(made(2, status="in_progress"), is_running=True)
        engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
        with engine.begin() as connection:
            connection.exec_driver_sql("DROP INDEX expertmesh_responses_by_lease")
            for column in ("runner", "num_runs"):
                connection.exec_driver_sql(f"ALTER TABLE expertmesh_responses DROP COLUMN {column}")
        clock.now_s += LEASE_S + 1
        async with opened(url, clock) as one, opened(url, clock) as other:
            assert await asyncio.gather(one.get("me", id_of(1)), other.get("me", id_of(1))) == [made(1)] * 2
            (lost,) = await one.lost(10)
            assert (lost.id, lost.request, lost.num_runs) == (id_of(2), None, 0)
            await one.put(made(3), is_running=True)
        indexes = {index["name"] for index in inspect(engine).get_indexes("expertmesh_responses")}
        assert "expertmesh_responses_by_lease" in indexes
        engine.dispose()

    run(work())


def test_who_runs_a_response_hears_that_it_is_not_wanted(url: str) -> None:
    async def work() -> None:
        async with opened(url, HandClock()) as store:
            for number in (1, 2):
                await store.put(made(number, status="in_progress"), is_running=True)
            await store.ask_cancel(id_of(1))
            assert not await store.renew(id_of(1), 0, [])
            await store.delete("me", id_of(2))
            assert not await store.renew(id_of(2), 0, [])
            assert not await store.end(made(2), 0, []), "what was deleted does not come back"
            assert await store.get("me", id_of(2)) is None

    run(work())


def test_many_at_once_are_all_stored(url: str) -> None:
    async def work() -> None:
        clock = HandClock()
        async with opened(url, clock) as one, opened(url, clock) as other:
            puts: list[Awaitable[None]] = [(one, other)[number % 2].put(made(number)) for number in range(60)]
            secrets = await asyncio.gather(one.secret("s"), other.secret("s"), *puts)
            assert secrets[0] == secrets[1]
            assert (await one.sweep()).num_responses == 60

    run(work())


def test_a_sweep_comes_by_itself(url: str) -> None:
    async def work() -> None:
        clock = HandClock()
        async with opened(url, clock, expiry_days=0.001) as store:
            await store.put(made(1))
            clock.now_s += SWEEP_INTERVAL_S
            await store.put(made(2))
            assert (await store.sweep()).num_responses == 1

    run(work())


def test_the_default_file_is_the_users_own_and_nobody_elses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path / "deep" / "data"))
    assert default_url() == f"sqlite:///{tmp_path}/deep/data/responses.sqlite"
    open_database(checked_url(None)).dispose()
    assert stat.S_IMODE((tmp_path / "deep" / "data" / "responses.sqlite").stat().st_mode) == 0o600


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigInvalid, match=r"file/responses\.sqlite"):
        ResponseStore(StoreSection(url=f"sqlite:///{tmp_path}/file/responses.sqlite"))


def test_a_database_that_fails_is_unavailable(tmp_path: Path) -> None:
    path = tmp_path / "responses.sqlite"
    path.write_bytes(b"this is no database" * 100)

    async def work() -> None:
        async with opened(f"sqlite:///{path}", HandClock()) as store:
            with pytest.raises(Unavailable):
                await store.get("me", id_of(1))

    run(work())


def test_no_key_and_no_text_lies_open_in_the_file(tmp_path: Path) -> None:
    """The body is compressed; what is left in columns are ids, digests and times."""
    path = tmp_path / "responses.sqlite"

    async def work() -> None:
        async with opened(f"sqlite:///{path}", HandClock()) as store:
            await store.put(made(1, instructions="a secret instruction"))

    run(work())
    with sqlite3.connect(path) as connection:
        (row,) = connection.execute("select owner, status, date from expertmesh_responses").fetchall()
    assert row == ("me", "completed", "2026-11-22")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["edge.num_replicas=2"], "PostgreSQL|postgresql"),
        (["edge.num_replicas=2", "edge.store.url=sqlite:////tmp/x"], "postgresql"),
        (["edge.store.url=mysql://x"], "edge.store.url"),
        (["edge.store.expiry_days=0"], "edge.store.expiry_days"),
        (["edge.store.max_responses=0"], "edge.store.max_responses"),
    ],
)
def test_a_config_that_cannot_work_is_refused(overrides: list[str], words: str) -> None:
    with pytest.raises(ConfigInvalid, match=words):
        load_config("tiny", overrides)


def test_several_edges_may_share_a_postgresql() -> None:
    config = load_config("tiny", ["edge.num_replicas=2", "edge.store.url=postgresql://h/n"])
    assert config.edge.store.is_shared
