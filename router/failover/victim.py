"""A cluster of our own to strike at: `expertmesh serve` in a process and a directory of its own, on loopback."""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx

from cluster.free_ports import free_ports
from cluster.ray_runtime import LOOPBACK, PACKAGES_ROOT
from cluster.warden import Run, processes_of
from router.errors import StartFailed
from router.failover.faults import TITLES

START_TIMEOUT_S = 300.0
MEND_TIMEOUT_S = 180.0
_STOP_TIMEOUT_S = 60.0
_POLL_S = 0.2
_PR_SET_PDEATHSIG = 1


class Victim:
    """A running cluster that ends with the `with` block."""

    def __init__(self, preset: str, settings: Sequence[str]) -> None:
        """Start `preset` with `settings` such as attention.min_replicas=2; raise StartFailed if it does not serve."""
        self._root = Path(f"/tmp/f{os.getpid()}")  # short, or Ray's sockets would not fit and lie elsewhere
        self._root.mkdir(mode=0o700)
        http_port, grpc_port = free_ports(LOOPBACK, 2)
        self.url = f"http://{LOOPBACK}:{http_port}"
        command = [sys.executable, "-m", "router.cli", "serve", preset, "--port", str(http_port)]
        command += ["--grpc-port", str(grpc_port), *(part for one in settings for part in ("--set", one))]
        environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
        paths = os.pathsep.join(filter(None, [str(PACKAGES_ROOT), environment.get("PYTHONPATH")]))
        self._log = self._root / "serve.log"
        with self._log.open("wb") as out:
            self._process = subprocess.Popen(
                command,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=environment | {"TMPDIR": str(self._root), "PYTHONPATH": paths},
                start_new_session=True,
                preexec_fn=_end_with_parent,  # noqa: PLW1509 - it makes two system calls
            )
        try:
            self._wait(self._is_ready, START_TIMEOUT_S, "it is not ready")
            self.model: str = self._get("/v1/models")["data"][0]["id"]
            self._whole = self._census()
        except BaseException:
            self.close()
            raise

    def pids(self, role: str) -> list[int]:
        """Return the living processes of a role."""
        return [pid for directory in self._run_dirs() for pid in _titled(directory, TITLES[role])]

    def processes(self) -> list[int]:
        """Return the living processes of the cluster that have its files open, and the one that was started."""
        found = {pid for path in self._run_dirs() for pid in processes_of(Run("no mark", str(path), frozenset()))}
        return sorted(found | {self._process.pid})

    def mend(self) -> None:
        """Return when as many processes of each role are there as at first, and all experts can be asked."""
        self._wait(lambda: self._is_ready() and self._census() == self._whole, MEND_TIMEOUT_S, "it is not whole again")

    def close(self) -> None:
        """End it as a user would, and remove what it wrote."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()  # its warden ends all the rest
            self._process.wait()
        deadline_s = time.monotonic() + _STOP_TIMEOUT_S
        while self._run_dirs() and time.monotonic() < deadline_s:
            time.sleep(_POLL_S)
        shutil.rmtree(self._root, ignore_errors=True)

    def __enter__(self) -> "Victim":
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def _run_dirs(self) -> list[Path]:
        return list(self._root.glob("expertmesh-*"))

    def _census(self) -> dict[str, int]:
        return {role: len(self.pids(role)) for role in TITLES}

    def _is_ready(self) -> bool:
        try:
            placement = str(self._get("/ready").get("placement", ""))
        except httpx.HTTPError:
            return False
        there, _, rest = placement.partition(" of ")
        return not rest or rest.startswith(f"{there} workers")

    def _get(self, path: str) -> dict[str, Any]:
        with httpx.Client(base_url=self.url, trust_env=False, timeout=10.0) as client:
            response = client.get(path)
            response.raise_for_status()
            return response.json()

    def _wait(self, is_so: Callable[[], bool], timeout_s: float, otherwise: str) -> None:
        deadline_s = time.monotonic() + timeout_s
        while not is_so():
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                tail = "\n".join(self._log.read_text(errors="replace").splitlines()[-10:])
                raise StartFailed(f"{otherwise} after {timeout_s:g} s, or has ended:\n{tail}")
            time.sleep(_POLL_S)


def _end_with_parent() -> None:
    """Heed Ctrl-C even if we run in the background, and end with the process that strikes, whatever ends it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _titled(directory: Path, title: str) -> list[int]:
    """Return the processes with a file of a run's directory open whose command line begins with `title`."""
    found: list[int] = []
    for pid in processes_of(Run("no mark", str(directory), frozenset())):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if command.startswith(title.encode()):
            found.append(pid)
    return found
