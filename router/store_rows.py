"""What is asked of the database of stored responses: one function a question, within the caller's transaction."""

import json
import secrets
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from router.store_tables import EVENTS, RESPONSES, SECRETS

_COMPRESSION_LEVEL = 1
_SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A response, what it was made from, and who may see it."""

    id: str
    owner: str
    """A digest of the API key that made it, empty where none is asked for."""
    response: dict[str, Any]
    """The response object as its maker last saw it."""
    input_items: list[Any]
    """The items of its own input, without those of earlier responses."""
    date: str
    """The date of its conversation, YYYY-MM-DD."""
    request: dict[str, Any] | None = None
    """Of one that is under way: the body that asked for it, to run it again by."""
    num_runs: int = 0
    """Of one that is under way: how many edges have run it, one after another."""
    lost_s: float | None = None
    """Seconds since its lease ended: it was under way, and whoever ran it has given no sign of life."""

    @property
    def is_lost(self) -> bool:
        """Return whether nobody runs it, though it is not over."""
        return self.lost_s is not None

    @property
    def previous_id(self) -> str | None:
        """Return the response that it goes on from."""
        return self.response["previous_response_id"]

    @property
    def status(self) -> str:
        """Return how far it is."""
        return self.response["status"]


@dataclass(frozen=True, slots=True)
class Lease:
    """Who runs a response, and until when that is believed, in seconds since the epoch."""

    runner: str
    until_s: float


@dataclass(frozen=True, slots=True)
class Totals:
    """What is stored altogether."""

    num_responses: int
    num_bytes: int


def put_row(connection: Connection, stored: StoredResponse, now_s: float, expires_s: float, lease: Lease | None) -> int:
    """Write a response, over itself if it is there; return its bytes. Its request is kept while it is leased."""
    request = {} if lease is None or stored.request is None else {"request": stored.request}
    body = _packed({"response": stored.response, "input_items": stored.input_items, **request})
    values = {
        "owner": stored.owner,
        "status": stored.status,
        "is_background": stored.response["background"],
        "previous_id": stored.previous_id,
        "date": stored.date,
        "used_s": now_s,
        "expires_s": expires_s,
        "lease_s": None if lease is None else lease.until_s,
        "runner": None if lease is None else lease.runner,
        "num_runs": None if lease is None else 1,
        "num_bytes": len(body),
        "body": body,
    }
    if connection.execute(update(RESPONSES).where(RESPONSES.c.id == stored.id).values(values)).rowcount == 0:
        connection.execute(insert(RESPONSES).values(id=stored.id, wants_cancel=False, **values))
        return len(body)
    events = select(func.coalesce(func.sum(func.length(EVENTS.c.data)), 0)).where(EVENTS.c.response_id == stored.id)
    all_bytes = len(body) + events.scalar_subquery()
    connection.execute(update(RESPONSES).where(RESPONSES.c.id == stored.id).values(num_bytes=all_bytes))
    return len(body)


def find_row(connection: Connection, owner: str, response_id: str, now_s: float) -> StoredResponse | None:
    """Return the owner's response, None if there is none or it has expired."""
    where = (RESPONSES.c.id == response_id, RESPONSES.c.owner == owner, RESPONSES.c.expires_s > now_s)
    row = connection.execute(select(RESPONSES).where(*where)).one_or_none()
    return None if row is None else _stored(row, now_s)


def hold_row(connection: Connection, response_id: str, runner: str) -> bool:
    """Return whether a response is there, not over, and run by `runner`; nobody else takes it in this transaction.

    It writes, so that the row is locked.
    """
    where = (RESPONSES.c.id == response_id, RESPONSES.c.lease_s.is_not(None), RESPONSES.c.runner == runner)
    return connection.execute(update(RESPONSES).where(*where).values(runner=runner)).rowcount == 1


def touch_rows(connection: Connection, response_ids: Sequence[str], now_s: float, expires_s: float) -> None:
    """Let responses that a conversation goes on from live as long as it does."""
    where = RESPONSES.c.id.in_(response_ids)
    connection.execute(update(RESPONSES).where(where).values(used_s=now_s, expires_s=expires_s))


def delete_rows(connection: Connection, response_ids: Sequence[str]) -> int:
    """Remove responses and their events; return how many were there."""
    connection.execute(delete(EVENTS).where(EVENTS.c.response_id.in_(response_ids)))
    return connection.execute(delete(RESPONSES).where(RESPONSES.c.id.in_(response_ids))).rowcount


def want_cancel(connection: Connection, response_id: str) -> None:
    """Ask whoever runs a response to give it up."""
    connection.execute(update(RESPONSES).where(RESPONSES.c.id == response_id).values(wants_cancel=True))


def renew_row(connection: Connection, response_id: str, lease: Lease) -> bool:
    """Say that a response is still run; return whether it is still wanted, and of the runner that says so."""
    where = (RESPONSES.c.id == response_id, RESPONSES.c.lease_s.is_not(None), RESPONSES.c.wants_cancel.is_(False))
    own = RESPONSES.c.runner == lease.runner
    return connection.execute(update(RESPONSES).where(*where, own).values(lease_s=lease.until_s)).rowcount == 1


def lost_rows(connection: Connection, now_s: float, limit: int) -> list[StoredResponse]:
    """Return responses that are not over and that nobody runs any more, the first lost ones first."""
    where = (RESPONSES.c.lease_s <= now_s, RESPONSES.c.expires_s > now_s)
    rows = connection.execute(select(RESPONSES).where(*where).order_by(RESPONSES.c.lease_s).limit(limit))
    return [_stored(row, now_s) for row in rows]


def take_row(connection: Connection, response_id: str, lease: Lease, now_s: float) -> bool:
    """Lease a response whose lease has run out to another runner; return whether it was there to take."""
    where = (RESPONSES.c.id == response_id, RESPONSES.c.lease_s <= now_s)
    values = {"lease_s": lease.until_s, "runner": lease.runner, "num_runs": RESPONSES.c.num_runs + 1}
    return connection.execute(update(RESPONSES).where(*where).values(values)).rowcount == 1


def leave_row(connection: Connection, stored: StoredResponse, runner: str, now_s: float) -> None:
    """Give back a response that was taken and not begun: whoever comes next may take it."""
    where = (RESPONSES.c.id == stored.id, RESPONSES.c.runner == runner, RESPONSES.c.lease_s.is_not(None))
    values = {"lease_s": now_s - (stored.lost_s or 0.0), "num_runs": stored.num_runs}
    connection.execute(update(RESPONSES).where(*where).values(values))


def claim_lost(connection: Connection, response_id: str, now_s: float) -> bool:
    """End a response whose lease has run out; return whether it was the caller's to end."""
    where = (RESPONSES.c.id == response_id, RESPONSES.c.lease_s <= now_s)
    return connection.execute(update(RESPONSES).where(*where).values(lease_s=None)).rowcount == 1


def add_events(connection: Connection, response_id: str, first: int, lines: Sequence[bytes]) -> int:
    """Keep the events from sequence number `first` on; return their bytes."""
    if not lines:
        return 0
    data = zlib.compress(b"\n".join(lines), _COMPRESSION_LEVEL)
    last = first + len(lines) - 1
    connection.execute(insert(EVENTS).values(response_id=response_id, first=first, last=last, data=data))
    own = RESPONSES.c.id == response_id
    connection.execute(update(RESPONSES).where(own).values(num_bytes=RESPONSES.c.num_bytes + len(data)))
    return len(data)


def find_events(connection: Connection, response_id: str, after: int) -> list[bytes]:
    """Return the kept events whose sequence number is larger than `after`, as JSON, in order."""
    where = (EVENTS.c.response_id == response_id, EVENTS.c.last > after)
    lines: list[bytes] = []
    for first, data in connection.execute(select(EVENTS.c.first, EVENTS.c.data).where(*where).order_by(EVENTS.c.first)):
        lines += zlib.decompress(data).split(b"\n")[max(0, after + 1 - first) :]
    return lines


def totals(connection: Connection) -> Totals:
    """Return what is stored altogether."""
    count, num_bytes = connection.execute(select(func.count(), func.sum(RESPONSES.c.num_bytes))).one()
    return Totals(count, num_bytes or 0)


def expired_rows(connection: Connection, now_s: float, limit: int) -> list[str]:
    """Return responses that have expired, not more than `limit`."""
    where = RESPONSES.c.expires_s <= now_s
    return list(connection.execute(select(RESPONSES.c.id).where(where).limit(limit)).scalars())


def oldest_rows(connection: Connection, now_s: float, limit: int) -> list[tuple[str, int]]:
    """Return (id, bytes) of the responses unused for longest, of the owner that holds most; none that runs."""
    held = func.sum(RESPONSES.c.num_bytes)
    is_idle = RESPONSES.c.lease_s.is_(None) | (RESPONSES.c.lease_s <= now_s)
    owners = select(RESPONSES.c.owner).where(is_idle).group_by(RESPONSES.c.owner).order_by(held.desc()).limit(1)
    owner = connection.execute(owners).scalar()
    rows = select(RESPONSES.c.id, RESPONSES.c.num_bytes).where(RESPONSES.c.owner == owner, is_idle)
    found = connection.execute(rows.order_by(RESPONSES.c.used_s, RESPONSES.c.id).limit(limit))
    return [(row_id, num_bytes) for row_id, num_bytes in found]


def secret_of(connection: Connection, name: str) -> bytes:
    """Return 32 random bytes that stay the same; whoever comes first draws them."""
    wanted = select(SECRETS.c.value).where(SECRETS.c.name == name)
    found = connection.execute(wanted).scalar()
    if found is None:
        # Another edge may be first; its value is read below.
        with suppress(IntegrityError), connection.begin_nested():
            connection.execute(insert(SECRETS).values(name=name, value=secrets.token_bytes(_SECRET_BYTES)))
        found = connection.execute(wanted).scalar()
    assert found is not None, f"the secret {name} was just written"
    return bytes(found)


def _stored(row: Row[Any], now_s: float) -> StoredResponse:
    body = json.loads(zlib.decompress(row.body))
    lease_s: float | None = row.lease_s
    return StoredResponse(
        row.id,
        row.owner,
        body["response"],
        body["input_items"],
        row.date,
        request=body.get("request"),
        num_runs=row.num_runs or 0,
        lost_s=None if lease_s is None or lease_s > now_s else now_s - lease_s,
    )


def _packed(value: Any) -> bytes:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return zlib.compress(text.encode("utf-8", "surrogatepass"), _COMPRESSION_LEVEL)
