"""A PostgreSQL server of our own on loopback, if this machine has the programs."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_NOBODY = 65534
"""PostgreSQL refuses to be run by root."""
_START_TIMEOUT_S = 30.0


def program(name: str) -> str:
    """Return where one of PostgreSQL's programs is; skip the test if it is not installed."""
    installed = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    found = shutil.which(name) or (str(installed[-1]) if installed else None)
    if found is None:
        pytest.skip(f"PostgreSQL's {name} is not installed")
    return found


@contextmanager
def running_postgres() -> Generator[str]:
    """Run an empty database until the block ends; yield its URL."""
    initdb, postgres = program("initdb"), program("postgres")
    user = _NOBODY if os.getuid() == 0 else os.getuid()
    with tempfile.TemporaryDirectory(prefix="pg") as directory:
        os.chown(directory, user, -1)
        data = f"{directory}/data"
        as_user: dict[str, Any] = {"user": user} if os.getuid() == 0 else {}
        setup = [initdb, "-D", data, "-A", "trust", "-U", "test", "-E", "UTF8", "--no-sync"]
        subprocess.run(setup, check=True, capture_output=True, cwd=directory, **as_user)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [postgres, "-D", data, "-h", "127.0.0.1", "-p", str(port), "-k", directory, "-c", "fsync=off"]
        with Path(directory, "log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, cwd=directory, **as_user)
        try:
            _wait_until_up(port, process)
            yield f"postgresql://test@127.0.0.1:{port}/postgres"
        finally:
            process.send_signal(signal.SIGINT)  # do not wait for clients
            process.wait(_START_TIMEOUT_S)


def _wait_until_up(port: int, process: "subprocess.Popen[Any]") -> None:
    import psycopg

    deadline_s = time.monotonic() + _START_TIMEOUT_S
    while True:
        assert process.poll() is None, f"PostgreSQL ended with {process.returncode}"
        try:
            psycopg.connect(f"host=127.0.0.1 port={port} user=test dbname=postgres").close()
            return
        except psycopg.OperationalError:
            assert time.monotonic() < deadline_s, "PostgreSQL did not come up"
            time.sleep(0.05)
