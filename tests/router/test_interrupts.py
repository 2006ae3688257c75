"""Ctrl-C: said at once, over in seconds, nothing left; a second one ends on the spot. Real processes, real signals."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cluster.warden import Run, processes_of
from tests.e2e.served import free_port, is_port_free

SAID = "Stopping. Ctrl-C again ends it at once."
LIBRARY_THAT_HOLDS_ON = """
import sys, time
from rich.console import Console
from router.interrupts import Interrupts
with Interrupts(Console()) as interrupts:
    print("listening", flush=True)
    deadline_s = time.monotonic() + 60
    while time.monotonic() < deadline_s:
        try:
            time.sleep(0.1)
        except KeyboardInterrupt:
            pass
        if "--checks" in sys.argv:
            interrupts.check()
"""


@contextmanager
def started(command: list[str], log: Path, **environment: str) -> Generator["subprocess.Popen[bytes]"]:
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, *command],
            stdout=out,
            stderr=subprocess.STDOUT,
            env=os.environ | environment,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


def wait_for(log: Path, text: str, limit_s: float) -> float:
    """Return after how many seconds the log holds the text."""
    began_s = time.monotonic()
    while text not in log.read_text(encoding="utf-8"):
        assert time.monotonic() - began_s < limit_s, log.read_text(encoding="utf-8")
        time.sleep(0.01)
    return time.monotonic() - began_s


def session_of(process: "subprocess.Popen[bytes]") -> list[str]:
    """Return the commands of the processes in the session that a process leads; what has ended has none."""
    found: list[str] = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and os.getsid(int(entry.name)) == process.pid:
                found.append((entry / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return [command for command in found if command]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_that_a_library_swallows_is_said_and_found_at_the_next_check(tmp_path: Path, number: int):
    log = tmp_path / "log"
    with started(["-c", LIBRARY_THAT_HOLDS_ON, "--checks"], log) as process:
        wait_for(log, "listening", 30)
        process.send_signal(number)
        assert wait_for(log, SAID, 5) < 2
        assert process.wait(10) not in {0, 130}


def test_a_second_interrupt_ends_what_the_first_could_not(tmp_path: Path):
    log = tmp_path / "log"
    with started(["-c", LIBRARY_THAT_HOLDS_ON], log) as process:
        wait_for(log, "listening", 30)
        process.send_signal(signal.SIGINT)
        wait_for(log, SAID, 5)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(5) == 130
    assert log.read_text(encoding="utf-8").splitlines()[-1] == "Ended at once."


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_start_that_is_interrupted_while_kernels_are_compiled_leaves_nothing(tmp_path: Path, number: int):
    """An empty cache makes it compile, which takes far longer than the end may take."""
    ports = free_port(), free_port()
    log = tmp_path / "log"
    flags = ["--port", str(ports[0]), "--grpc-port", str(ports[1])]
    command = ["-m", "router.cli", "serve", "tiny-standalone", *flags]
    with started(command, log, EXPERTMESH_CACHE=str(tmp_path / "cache")) as process:
        wait_for(log, "model: preparing the kernels", 60)
        process.send_signal(number)
        assert wait_for(log, SAID, 5) < 2
        assert process.wait(10) == 130
        time.sleep(0.5)
        assert session_of(process) == []
    assert log.read_text(encoding="utf-8").splitlines()[-1] == SAID
    assert is_port_free(ports)
    assert not list((tmp_path / "cache").glob("kernels/tmp*"))


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("times", [1, 2])
def test_a_start_on_ray_that_is_interrupted_leaves_nothing(tmp_path: Path, times: int):
    """Ray's processes have files of the run's directory open, or its id in their environment; both are gone."""
    ports = free_port(), free_port()
    root = Path(f"/tmp/ei{os.getpid() % 100_000}")  # short, for the sake of sockets
    root.mkdir()
    log = tmp_path / "log"
    flags = ["--port", str(ports[0]), "--grpc-port", str(ports[1])]
    with started(["-m", "router.cli", "serve", "tiny", *flags], log, TMPDIR=str(root), RAY_ADDRESS="") as process:
        wait_for(log, "Ray Serve: starting", 120)
        (run_dir,) = root.glob("expertmesh-*")
        run = Run("no mark", str(run_dir), frozenset())
        assert list(processes_of(run))
        process.send_signal(signal.SIGINT)
        wait_for(log, SAID, 20)
        for _ in range(times - 1):
            process.send_signal(signal.SIGINT)
        assert process.wait(40) in {130, -signal.SIGINT}
        deadline_s = time.monotonic() + 20
        while list(processes_of(run)) or list(root.iterdir()):
            assert time.monotonic() < deadline_s, [run_dir, list(processes_of(run))]
            time.sleep(0.2)
    root.rmdir()
    assert is_port_free(ports)
