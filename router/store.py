"""ResponseStore: responses that outlive their request, kept in SQLite or PostgreSQL, seen by their owner only.

    put, get, chain, delete          a response; a chain is a conversation's responses, the first one first
    events                           what its stream said
    renew, end, ask_cancel           a response under way is leased by the edge that runs it
    lost, take, leave                whose edge has died is taken over by another one, and by one only

Expired responses are gone for whoever asks, and swept away later. Beyond the bounds those unused for longest go, of the
owner who holds most.
"""

import asyncio
import logging
import re
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from router.config import StoreSection
from router.errors import RETRY_AFTER_S, NotFound, Unavailable
from router.store_rows import (
    Lease,
    StoredResponse,
    Totals,
    add_events,
    claim_lost,
    delete_rows,
    expired_rows,
    find_events,
    find_row,
    hold_row,
    leave_row,
    lost_rows,
    oldest_rows,
    put_row,
    renew_row,
    secret_of,
    take_row,
    totals,
    touch_rows,
    want_cancel,
)
from router.store_tables import checked_url, open_database

RESPONSE_ID = re.compile(r"resp_[0-9a-f]{32}")
"""Other ids are nobody's, and no database is asked for them."""
LEASE_S = 15.0
"""An edge that has not renewed for so long has stopped, and another one may take over what it ran."""
SWEEP_INTERVAL_S = 300.0
_SWEEP_BATCH = 50
_S_PER_DAY = 86_400.0
R = TypeVar("R")
_log = logging.getLogger(__name__)


class ResponseStore:
    """Stored responses. The database is opened by the first use, in a thread, where all of it runs.

    Every method raises Unavailable while the database does not answer.
    """

    def __init__(self, section: StoreSection, now_s: Callable[[], float] = time.time) -> None:
        """Keep responses as `section` says; `now_s` gives seconds since the epoch.

        Raises ConfigInvalid for a database that can never be opened here.
        """
        self._runner = uuid.uuid4().hex
        self._section = section
        self._url = checked_url(section.url)
        self._now_s = now_s
        # SQLite takes one writer at a time: a queue here is better than a lock there.
        num_threads = 4 if section.is_shared else 1
        self._threads = ThreadPoolExecutor(num_threads, thread_name_prefix="response-store")
        self._lock = threading.Lock()
        self._opening = threading.Lock()
        self._engine: Engine | None = None
        self._held = Totals(0, 0)
        self._next_sweep_s = 0.0

    async def open(self) -> None:
        """Open the database, which the first use would do as well."""
        await self._run(lambda _: None)

    async def put(self, stored: StoredResponse, lines: Sequence[bytes] = (), is_running: bool = False) -> None:
        """Write a response and its events, each one line of JSON; with `is_running` it is leased to the caller."""

        def put(connection: Connection) -> None:
            now_s = self._now_s()
            lease = self._lease() if is_running else None
            num_bytes = put_row(connection, stored, now_s, self._expiry_s(now_s), lease)
            self._hold(1, num_bytes + add_events(connection, stored.id, 0, lines))

        await self._run(put)
        await self._sweep_if_due()

    async def renew(self, response_id: str, first: int, lines: Sequence[bytes]) -> bool:
        """Say that a response is still run, and keep its events from sequence number `first` on.

        Return whether it is still wanted, and ours: neither cancelled, nor deleted, nor taken over by another edge.
        """

        def renew(connection: Connection) -> bool:
            is_wanted = renew_row(connection, response_id, self._lease())
            if is_wanted:
                self._hold(0, add_events(connection, response_id, first, lines))
            return is_wanted

        return await self._run(renew)

    async def end(self, stored: StoredResponse, first: int, lines: Sequence[bytes]) -> bool:
        """Write how a response ended that is leased to us, and its last events; return False if it is not."""

        def end(connection: Connection) -> bool:
            if not hold_row(connection, stored.id, self._runner):
                return False
            now_s = self._now_s()
            self._hold(0, add_events(connection, stored.id, first, lines))
            self._hold(0, put_row(connection, stored, now_s, self._expiry_s(now_s), None))
            return True

        return await self._run(end)

    async def end_lost(self, stored: StoredResponse, first: int, lines: Sequence[bytes]) -> None:
        """Write how a response ended that nobody runs any more, and its last events; the first who says so is heard."""

        def end(connection: Connection) -> None:
            now_s = self._now_s()
            if claim_lost(connection, stored.id, now_s):
                add_events(connection, stored.id, first, lines)
                self._hold(0, put_row(connection, stored, now_s, self._expiry_s(now_s), None))

        await self._run(end)

    async def lost(self, limit: int) -> list[StoredResponse]:
        """Return responses that are under way and that nobody runs any more, not more than `limit`."""
        return await self._run(lambda connection: lost_rows(connection, self._now_s(), limit))

    async def take(self, response_id: str) -> bool:
        """Lease a lost response to ourselves, to run it again; return whether it was there to take.

        Of all edges that try, one succeeds; whoever ran it before can neither renew nor end it any more.
        """
        return await self._run(lambda connection: take_row(connection, response_id, self._lease(), self._now_s()))

    async def leave(self, stored: StoredResponse) -> None:
        """Let go of a response that was taken and could not be begun: it is lost for as long as it was before."""
        await self._run(lambda connection: leave_row(connection, stored, self._runner, self._now_s()))

    async def get(self, owner: str, response_id: str) -> StoredResponse | None:
        """Return the owner's response; None if there is none, it has expired, or it is another's."""
        if not RESPONSE_ID.fullmatch(response_id):
            return None
        return await self._run(lambda connection: find_row(connection, owner, response_id, self._now_s()))

    async def chain(self, owner: str, response_id: str, max_length: int) -> list[StoredResponse]:
        """Return a response and all that it goes on from, the first one first, and keep them as long as a new one.

        Raises NotFound naming the id that is not there, or where the chain grows longer than `max_length`.
        """

        def walk(connection: Connection) -> list[StoredResponse]:
            now_s, found, wanted = self._now_s(), list[StoredResponse](), response_id
            while True:
                is_sought = len(found) < max_length and RESPONSE_ID.fullmatch(wanted)
                one = find_row(connection, owner, wanted, now_s) if is_sought else None
                if one is None:
                    message = f"There is no response {wanted[:80]!r} to go on from, or none that this key may see."
                    raise NotFound(message)
                found.append(one)
                if one.previous_id is None:
                    break
                wanted = one.previous_id
            touch_rows(connection, [one.id for one in found], now_s, self._expiry_s(now_s))
            return found[::-1]

        return await self._run(walk)

    async def delete(self, owner: str, response_id: str) -> bool:
        """Remove the owner's response and its events; return whether it was there."""

        def remove(connection: Connection) -> bool:
            if find_row(connection, owner, response_id, self._now_s()) is None:
                return False
            return delete_rows(connection, [response_id]) > 0

        return await self._run(remove)

    async def events(self, response_id: str, after: int) -> list[bytes]:
        """Return the kept events behind sequence number `after`, as JSON, in order."""
        return await self._run(lambda connection: find_events(connection, response_id, after))

    async def ask_cancel(self, response_id: str) -> None:
        """Ask the edge that runs a response to give it up: it looks whenever it renews."""
        await self._run(lambda connection: want_cancel(connection, response_id))

    async def secret(self, name: str) -> bytes:
        """Return 32 random bytes that all edges of this database share."""
        return await self._run(lambda connection: secret_of(connection, name))

    async def sweep(self) -> Totals:
        """Remove what has expired, and what is beyond the bounds; return what is left."""
        self._held = await self._run(self._swept)
        self._next_sweep_s = self._now_s() + SWEEP_INTERVAL_S
        return self._held

    def close(self) -> None:
        """Finish what is under way and let go of the database."""
        self._threads.shutdown(wait=True)
        if self._engine is not None:
            self._engine.dispose()

    def _swept(self, connection: Connection) -> Totals:
        now_s = self._now_s()
        while gone := expired_rows(connection, now_s, _SWEEP_BATCH):
            delete_rows(connection, gone)
        held = totals(connection)
        if not self._is_beyond(held):
            return held
        # Some room is made at once, so that the next response need not sweep again.
        max_responses = self._section.max_responses - self._section.max_responses // 20
        max_bytes = self._section.max_bytes - self._section.max_bytes // 20
        while held.num_responses > max_responses or held.num_bytes > max_bytes:
            batch = oldest_rows(connection, now_s, _SWEEP_BATCH)
            gone = list[str]()
            for row_id, num_bytes in batch:
                if held.num_responses <= max_responses and held.num_bytes <= max_bytes:
                    break
                gone.append(row_id)
                held = Totals(held.num_responses - 1, held.num_bytes - num_bytes)
            if not gone:
                break
            delete_rows(connection, gone)
        return held

    async def _sweep_if_due(self) -> None:
        if self._is_beyond(self._held) or self._now_s() >= self._next_sweep_s:
            await self.sweep()

    def _is_beyond(self, held: Totals) -> bool:
        return held.num_responses > self._section.max_responses or held.num_bytes > self._section.max_bytes

    def _hold(self, num_responses: int, num_bytes: int) -> None:
        with self._lock:
            self._held = Totals(self._held.num_responses + num_responses, self._held.num_bytes + num_bytes)

    def _lease(self) -> Lease:
        return Lease(self._runner, self._now_s() + LEASE_S)

    def _expiry_s(self, now_s: float) -> float:
        return now_s + self._section.expiry_days * _S_PER_DAY

    async def _run(self, work: Callable[[Connection], R]) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._in_transaction, work)

    def _in_transaction(self, work: Callable[[Connection], R]) -> R:
        try:
            with self._opening:
                if self._engine is None:
                    self._engine = open_database(self._url)
            with self._engine.begin() as connection:
                return work(connection)
        except SQLAlchemyError as error:
            _log.exception("the database of stored responses failed")
            message = "Stored responses cannot be reached now. Try again."
            raise Unavailable(message, retry_after_s=RETRY_AFTER_S) from error
