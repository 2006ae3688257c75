"""The tables of stored responses, and how a database of them is opened: SQLite or PostgreSQL."""

import os
import sqlite3
import sys
import time
from pathlib import Path
from typing import Any

from sqlalchemy import (
    URL,
    Boolean,
    Column,
    Connection,
    Double,
    Engine,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    create_engine,
    event,
    inspect,
    make_url,
)
from sqlalchemy.exc import ArgumentError

from router.errors import ConfigInvalid

DATA_VARIABLE = "EXPERTMESH_DATA"
MAX_CONNECTIONS = 4
"""To PostgreSQL, of one edge. SQLite has one writer anyway."""
_LOCKED_PAUSE_S = 0.02
_BUSY_TIMEOUT_MS = 10_000
_SCHEMA_LOCK = 5_207_001
"""Any number that nobody else locks in the same database."""

METADATA = MetaData()
RESPONSES = Table(
    "expertmesh_responses",
    METADATA,
    Column("id", String(80), primary_key=True),
    Column("owner", String(64), nullable=False),
    Column("status", String(16), nullable=False),
    Column("is_background", Boolean, nullable=False),
    Column("previous_id", String(80)),
    Column("date", String(10), nullable=False),
    Column("used_s", Double, nullable=False),
    Column("expires_s", Double, nullable=False),
    Column("lease_s", Double),
    Column("wants_cancel", Boolean, nullable=False),
    Column("num_bytes", Integer, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("runner", String(32)),
    Column("num_runs", Integer),
    Index("expertmesh_responses_by_expiry", "expires_s"),
    Index("expertmesh_responses_by_lease", "lease_s"),
    Index("expertmesh_responses_by_use", "owner", "used_s", "num_bytes"),
)
"""One row a response. `body` is compressed JSON; times are seconds since the epoch.

One that is under way is leased until `lease_s` to the edge named by `runner`, the `num_runs`th that runs it.
"""
_LATER_COLUMNS = ("runner", "num_runs")
"""Of responses: databases that were made before have none of these, nor the index by lease."""
EVENTS = Table(
    "expertmesh_response_events",
    METADATA,
    Column("response_id", String(80), primary_key=True),
    Column("first", Integer, primary_key=True),
    Column("last", Integer, nullable=False),
    Column("data", LargeBinary, nullable=False),
)
"""Events of a stream in pieces: compressed JSON lines of the sequence numbers `first` to `last`."""
SECRETS = Table(
    "expertmesh_secrets",
    METADATA,
    Column("name", String(40), primary_key=True),
    Column("value", LargeBinary, nullable=False),
)
"""What all edges of one database share."""


def default_url() -> str:
    """Return the URL of the SQLite file in `$EXPERTMESH_DATA`, else in the user's data directory."""
    return f"sqlite:///{data_dir() / 'responses.sqlite'}"


def data_dir() -> Path:
    """Return where this program keeps what it cannot make again; it need not exist yet."""
    chosen = os.environ.get(DATA_VARIABLE)
    if chosen:
        return Path(chosen).expanduser().absolute()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "expertmesh"
    base = Path(os.environ.get("XDG_DATA_HOME", ""))
    # The XDG specification says to ignore a relative path.
    return (base if base.is_absolute() else Path.home() / ".local" / "share") / "expertmesh"


def checked_url(url: str | None) -> URL:
    """Return where responses are stored; raises ConfigInvalid for a driver or a directory that cannot be had."""
    try:
        parsed = make_url(url or default_url())
    except ArgumentError as error:
        raise ConfigInvalid(f"edge.store.url is no URL of a database: {error}") from error
    if parsed.get_backend_name() == "postgresql":
        return _with_driver(parsed)
    _make_directory(Path(str(parsed.database)))
    return parsed


def open_database(parsed: URL) -> Engine:
    """Return an engine whose tables exist; what the database refuses is raised as SQLAlchemy's errors."""
    if parsed.get_backend_name() == "postgresql":
        shared = create_engine(parsed, pool_size=MAX_CONNECTIONS, pool_pre_ping=True)
        return _created(shared, f"SELECT pg_advisory_xact_lock({_SCHEMA_LOCK})")
    engine = create_engine(parsed, connect_args={"timeout": _BUSY_TIMEOUT_MS / 1000})
    event.listen(engine, "connect", _set_pragmas)
    return _created(engine, "BEGIN IMMEDIATE")


def _with_driver(url: URL) -> URL:
    try:
        import psycopg
    except ImportError as error:
        message = "edge.store.url names PostgreSQL, whose driver is missing: pip install 'expertmesh[postgresql]'"
        raise ConfigInvalid(message) from error
    assert psycopg.apilevel == "2.0", "the driver speaks Python's database interface"
    return url.set(drivername="postgresql+psycopg")


def _make_directory(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Others on this machine have no business with conversations.
        path.touch(mode=0o600, exist_ok=True)
    except OSError as error:
        message = f"stored responses need {path}: {error}; set {DATA_VARIABLE} or edge.store.url"
        raise ConfigInvalid(message) from error


def _created(engine: Engine, lock: str) -> Engine:
    """Return `engine` with its tables, made by whoever comes first: others wait for the `lock`."""
    with engine.begin() as connection:
        connection.exec_driver_sql(lock)
        METADATA.create_all(connection)
        _add_what_came_later(connection)
    return engine


def _add_what_came_later(connection: Connection) -> None:
    there = {column["name"] for column in inspect(connection).get_columns(RESPONSES.name)}
    for name in _LATER_COLUMNS:
        if name not in there:
            kind = RESPONSES.c[name].type.compile(connection.dialect)
            connection.exec_driver_sql(f"ALTER TABLE {RESPONSES.name} ADD COLUMN {name} {kind}")
    for index in RESPONSES.indexes:
        index.create(connection, checkfirst=True)


def _set_pragmas(connection: Any, _record: Any) -> None:
    connection.execute(f"PRAGMA busy_timeout={_BUSY_TIMEOUT_MS}").close()
    _use_write_ahead_log(connection)
    # A crash of the machine may lose the last responses, never the file.
    connection.execute("PRAGMA synchronous=NORMAL").close()


def _use_write_ahead_log(connection: Any) -> None:
    """Change the journal, once in a file's life; while another does it SQLite refuses at once, whatever the timeout."""
    deadline_s = time.monotonic() + _BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL").close()
            return
        except sqlite3.OperationalError:
            if time.monotonic() >= deadline_s:
                raise
            time.sleep(_LOCKED_PAUSE_S)
