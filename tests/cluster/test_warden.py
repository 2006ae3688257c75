"""The warden: when its launcher is gone, however, nothing of the run is left; and nobody else is touched."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from cluster import warden

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="everything on Ray is Linux only")

LAUNCHER = """
import os, subprocess, sys, time
run_id, run_dir = sys.argv[1:3]
subprocess.Popen([sys.executable, "-I", sys.argv[3], run_id, run_dir], stdin=subprocess.PIPE, start_new_session=True)
environment = os.environ | {"EXPERTMESH_RUN_ID": run_id}
sleep = [sys.executable, "-c", "import time; time.sleep(300)"]
marked = subprocess.Popen(sleep, env=environment)
with_log = subprocess.Popen(sleep, stdout=open(os.path.join(run_dir, "log"), "w"), start_new_session=True)
print(marked.pid, with_log.pid, flush=True)
time.sleep(300)
"""


@pytest.fixture
def bystander() -> Generator[subprocess.Popen[bytes]]:
    """A process of another run."""
    environment = os.environ | {warden.RUN_ID_VARIABLE: "another run"}
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"], env=environment)
    yield process
    process.kill()
    process.wait()


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def eventually(claim: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 20
    while not claim():
        assert time.monotonic() < deadline_s, "the claim did not come true"
        time.sleep(0.05)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_the_end_of_the_launcher_ends_the_run(
    how: signal.Signals, tmp_path: Path, bystander: subprocess.Popen[bytes]
) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    command = [sys.executable, "-c", LAUNCHER, f"run-{os.getpid()}-{how}", str(run_dir), warden.__file__]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as launcher:
        assert launcher.stdout is not None
        pids = [int(pid) for pid in launcher.stdout.readline().split()]
        assert all(is_alive(pid) for pid in pids)
        launcher.send_signal(how)
    eventually(lambda: not any(is_alive(pid) for pid in pids))
    eventually(lambda: not run_dir.exists())
    assert bystander.poll() is None
