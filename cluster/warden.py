"""The warden of an own Ray: it outlives the launcher, however that ends, and leaves nothing of the run behind.

It waits until the pipe to the launcher closes, which a `kill -9` does too, then ends every process of the run and
removes the run's directory. A process belongs to the run if it carries the run's id in its environment, or, as some
of Ray's overwrite theirs, has a file of the run's directory open: its log. Only the standard library: the warden must
start in no time and need nothing. Linux only, as everything on Ray.
"""

import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

RUN_ID_VARIABLE = "EXPERTMESH_RUN_ID"
"""Environment variable that all processes of a run inherit."""
SWEEP_TIMEOUT_S = 15.0
_PAUSE_S = 0.1


@dataclass(frozen=True, slots=True)
class Run:
    """What belongs to one run of a launcher."""

    run_id: str
    run_dir: str
    spared: frozenset[int]
    """Processes that are left alone: the launcher and the warden."""


def main() -> None:
    """Wait for the end of the launcher, then sweep. Arguments: run id, run directory."""
    run_id, run_dir = sys.argv[1:3]
    run = Run(run_id, run_dir, frozenset((os.getpid(), os.getppid())))
    sys.stdin.buffer.read()
    sweep(run)
    shutil.rmtree(run_dir, ignore_errors=True)


def sweep(run: Run) -> None:
    """Kill the processes of a run until none is found twice in a row: a dying parent may have started one more."""
    deadline_s = time.monotonic() + SWEEP_TIMEOUT_S
    num_empty_rounds = 0
    while num_empty_rounds < 2 and time.monotonic() < deadline_s:
        pids = list(processes_of(run))
        num_empty_rounds = 0 if pids else num_empty_rounds + 1
        for pid in pids:
            _kill(pid)
        time.sleep(_PAUSE_S)


def processes_of(run: Run) -> Iterator[int]:
    """Yield the ids of the living processes of a run."""
    mark = f"{RUN_ID_VARIABLE}={run.run_id}".encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) in run.spared:
            continue
        if mark in _environment(entry) or _has_open_file_in(entry, run.run_dir):
            yield int(entry.name)


def _environment(process: Path) -> list[bytes]:
    """Return the environment a process was started with; nothing of one that has ended or belongs to another user."""
    try:
        return (process / "environ").read_bytes().split(b"\0")
    except OSError:
        return []


def _has_open_file_in(process: Path, run_dir: str) -> bool:
    try:
        return any(_target(link).startswith(run_dir + "/") for link in (process / "fd").iterdir())
    except OSError:
        return False


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except OSError:
        return ""


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


if __name__ == "__main__":
    main()
