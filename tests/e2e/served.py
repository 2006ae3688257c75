"""A real `expertmesh serve` in a process of its own, on free loopback ports, ended as a user would end it."""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from cluster.free_ports import free_ports

START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 30.0
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Served:
    """A running server."""

    preset: str
    http_port: int
    grpc_port: int
    process: subprocess.Popen[bytes]
    log: Path
    start_s: float
    """Seconds from the command to /ready."""

    @property
    def url(self) -> str:
        """Return the HTTP root."""
        return f"http://127.0.0.1:{self.http_port}"


def free_port() -> int:
    """Return a loopback port that nobody listens on and that the system gives to nobody before the server binds it."""
    (port,) = free_ports("127.0.0.1", 1)
    return port


@contextmanager
def served(
    preset: str, *arguments: str, joins_ray: bool = False, given_http_port: int | None = None
) -> Generator[Served]:
    """Start `expertmesh serve PRESET`, yield it when /ready says so, end it with Ctrl-C's signal and check the end.

    It runs on a Ray of its own unless it `joins_ray`, the one that the environment names; there HTTP may be given, and
    be at another port than the one that is asked for.
    """
    wanted_http_port, grpc_port = free_port(), free_port()
    http_port = given_http_port or wanted_http_port
    command = [sys.executable, "-m", "router.cli", "serve", preset, "--port", str(wanted_http_port)]
    command += ["--grpc-port", str(grpc_port), *arguments]
    environment = {key: value for key, value in os.environ.items() if joins_ray or key != "RAY_ADDRESS"}
    with tempfile.TemporaryDirectory(prefix="em") as directory:
        log = Path(directory) / "serve.log"
        began = time.monotonic()
        with log.open("wb") as out:
            process = subprocess.Popen(
                command,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
                preexec_fn=_as_in_a_foreground,  # noqa: PLW1509 - it makes two system calls
            )
        try:
            wait_until_ready(process, http_port, log)
            start_s = time.monotonic() - began
            yield Served(preset, http_port, grpc_port, process, log, start_s)
            stop(process, log)
        finally:
            kill_group(process)


def _as_in_a_foreground() -> None:
    """Heed Ctrl-C even if the tests run in the background, and end with the tests, whatever ends them."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def wait_until_ready(process: subprocess.Popen[bytes], http_port: int, log: Path) -> None:
    """Poll /ready; raises AssertionError with the server's own words when it ends or takes too long."""
    deadline = time.monotonic() + START_TIMEOUT_S
    with httpx.Client(trust_env=False, timeout=5.0) as client:
        while time.monotonic() < deadline:
            assert process.poll() is None, f"serve ended with {process.returncode}: {reversed_log(log)}"
            try:
                if client.get(f"http://127.0.0.1:{http_port}/ready").status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.2)
    raise AssertionError(f"not ready after {START_TIMEOUT_S:.0f} s:\n{log.read_text()}")


def reversed_log(log: Path) -> str:
    """Return the lines of a log, the last one first: reports of tests cut long messages at their end."""
    return "\n".join(reversed(log.read_text().splitlines()))


def stop(process: subprocess.Popen[bytes], log: Path) -> None:
    """Send SIGINT and assert a clean end within the limit."""
    process.send_signal(signal.SIGINT)
    try:
        code = process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise AssertionError(f"serve did not stop within {STOP_TIMEOUT_S:.0f} s:\n{log.read_text()}") from error
    assert code in (0, 130), f"serve ended with {code}:\n{log.read_text()}"


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """End whatever is left of the server's own process group."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait(STOP_TIMEOUT_S)


def is_port_free(ports: Sequence[int]) -> bool:
    """Say whether nobody listens on any of the ports."""
    for port in ports:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return False
    return True
