"""What the processes of a cluster hold: memory, open files, ports, children; and what is left of them afterwards."""

import socket
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from router.failover.faults import TITLES

LOG_MONITOR = "Ray's log monitor"
_MIB = 1024 * 1024
_OTHERS = {
    "raylet": "raylet/raylet",
    "GCS": "gcs/gcs_server",
    "HAProxy": "haproxy",
    "Serve's proxy": "ray::ProxyActor",
    "launcher": "router.cli",
    LOG_MONITOR: "log_monitor.py",
}
"""What the command line of each other long-lived process has in it."""
_SHARED = "/dev/shm/"
REST = "other"


@dataclass
class Census:
    """Counts a cluster's processes again and again, and remembers whatever it saw of them."""

    pids: dict[int, float] = field(default_factory=dict[int, float])
    """All processes ever seen, with when each was made: an id may be given out anew."""
    ports: set[int] = field(default_factory=set[int])
    """All ports that any of them ever listened on."""
    shared_files: set[str] = field(default_factory=set[str])

    def take(self, pids: Iterable[int]) -> dict[str, float]:
        """Return what `pids` and their children hold, by name.

        Of each role its memory in MiB, open files and processes; of all together the ports, the shared memory, and
        the ended children that nobody has taken note of.
        """
        figures: dict[str, float] = defaultdict(float, {f"processes, {role}": 0.0 for role in TITLES})
        living: set[int] = set()
        for pid in _with_descendants(pids):
            try:
                self._add(figures, psutil.Process(pid))
                living.add(pid)
            except (psutil.NoSuchProcess, OSError):
                continue
        listening = {
            int(connection.laddr.port)
            for connection in psutil.net_connections("tcp")
            if connection.laddr and connection.pid in living and connection.status == psutil.CONN_LISTEN
        }
        self.ports |= listening
        figures["ports"] = len(listening)
        figures["ended children"] = sum(1 for _ in _zombies_of(living))
        return dict(figures)

    def leftovers(self, grace_s: float = 0.0) -> list[str]:
        """Return which processes, ports and shared files are still there `grace_s` after their cluster has ended."""
        deadline_s = time.monotonic() + grace_s
        while (left := self._still_there()) and time.monotonic() < deadline_s:
            time.sleep(0.2)
        return left

    def _still_there(self) -> list[str]:
        return [
            *(f"process {pid}" for pid, made_s in self.pids.items() if _is_there(pid, made_s)),
            *(f"port {port}" for port in sorted(self.ports) if _listens(port)),
            *(f"file {path}" for path in sorted(self.shared_files) if Path(path).exists()),
        ]

    def _add(self, figures: dict[str, float], process: psutil.Process) -> None:
        """Count one process; raises NoSuchProcess or OSError if it ends meanwhile."""
        role, memory, files = role_of(process.cmdline()), _memory_of(process.pid), list(_files_of(process.pid))
        self.pids[process.pid] = process.create_time()
        self.shared_files |= {path for path in files if path.startswith(_SHARED)}
        figures[f"memory, {role}"] += memory["Pss_Anon"]
        figures["shared memory"] += memory["Pss_Shmem"]
        figures[f"files, {role}"] += len(files)
        figures[f"processes, {role}"] += 1


def role_of(command: list[str]) -> str:
    """Return what a process of this command line is; whatever is not named is one of the rest."""
    line = " ".join(command)
    for role, title in TITLES.items():
        if line.startswith(title):
            return role
    return next((role for role, part in _OTHERS.items() if part in line), REST)


def _with_descendants(pids: Iterable[int]) -> set[int]:
    found: set[int] = set()
    for pid in pids:
        try:
            found |= {pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))}
        except psutil.NoSuchProcess:
            continue  # ended meanwhile
    return found


def _memory_of(pid: int) -> Mapping[str, float]:
    """Return a process's memory in MiB by kind, pages shared by n processes counted 1/n; nothing of files' pages."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()[1:]
    return {name: int(rest.split()[0]) * 1024 / _MIB for name, rest in (line.split(":", 1) for line in lines)}


def _files_of(pid: int) -> Iterator[str]:
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            yield str(link.readlink())
        except FileNotFoundError:
            continue  # closed meanwhile


def _zombies_of(parents: set[int]) -> Iterator[int]:
    for process in psutil.process_iter(["ppid", "status"]):
        if process.info["ppid"] in parents and process.info["status"] == psutil.STATUS_ZOMBIE:
            yield process.pid


def _is_there(pid: int, made_s: float) -> bool:
    try:
        return psutil.Process(pid).create_time() == made_s
    except psutil.NoSuchProcess:
        return False


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
