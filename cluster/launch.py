"""The cluster as plain processes, without Ray: expert workers beside this process, for tests and experiments.

    with LaunchedCluster(spec) as cluster:
        outputs = cluster.experts.submit(layer, hidden, gate).wait()

Workers are processes of their own and end with this one, however it ends.
"""

import json
import os
import secrets
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cluster.attention_side import AttentionLoader, AttentionSide
from cluster.cluster_spec import ClusterSpec, worker_id
from cluster.cluster_status import Member, Membership
from cluster.errors import WorkerLost
from cluster.experts.placement import Placement
from cluster.experts.remote_experts import RemoteExperts
from cluster.experts.traffic import TrafficReport
from cluster.launched_moves import LaunchedMoves
from cluster.model_source import open_model
from cluster.moves import MovePolicy
from cluster.remote_side import RemoteSide, connect_experts, placement_of
from cluster.worker_process import WorkerOrder
from model.load import LoadProgress

_STOP_GRACE_S = 5.0
_STOP_POLL_S = 0.001
_ROOT = Path(__file__).resolve().parent.parent

WorkerReport = Callable[[str, LoadProgress], None]
"""Takes a worker's id and how far it has come."""


@dataclass(slots=True)
class _Worker:
    """One process, and what it has said so far."""

    index: int
    incarnation: int
    process: "subprocess.Popen[bytes]"
    said: bytearray = field(default_factory=bytearray)
    port: int | None = None
    fingerprint: str = ""

    @property
    def id(self) -> str:
        return worker_id(self.index)

    @property
    def member(self) -> Member:
        return Member(self.id, self.index, self.incarnation, f"127.0.0.1:{self.port}", self.fingerprint)


class LaunchedCluster:
    """Expert workers of a spec, started, connected to, and ended with the `with` block."""

    def __init__(
        self,
        spec: ClusterSpec,
        start_timeout_s: float = 120.0,
        report: WorkerReport = lambda worker, progress: None,
    ) -> None:
        """Start `spec.experts.num_workers` workers and connect; raises what keeps one from starting as WorkerLost.

        Raises CheckpointError if the checkpoint cannot be opened, HandshakeRefused naming what differs.
        """
        self.secret = secrets.token_hex(16)
        self._spec = spec
        self._start_timeout_s = start_timeout_s
        self._report = report
        self._epoch = 0
        self._sides: list[RemoteSide] = []
        self._attention_sides: list[AttentionSide] = []
        self._workers: dict[str, _Worker] = {}
        self._placement: Placement | None = None
        self._checkpoint = open_model(spec.model.path)
        try:
            self._start([(index, 1) for index in range(spec.experts.num_workers)])
            self._sides.append(connect_experts(spec, self._checkpoint, self.membership, self.secret))
        except BaseException:
            self.close()
            raise

    @property
    def experts(self) -> RemoteExperts:
        """Return all experts of the model, on the workers."""
        return self._sides[0].experts

    @property
    def membership(self) -> Membership:
        """Return the workers that are there."""
        section = self._spec.experts
        members = tuple(worker.member for worker in self._workers.values() if worker.process.poll() is None)
        sizes = self._epoch, section.num_workers, section.copies
        return Membership(*sizes, members, section.num_spare_slots, self._placement)

    def moves(self, policy: MovePolicy) -> LaunchedMoves:
        """Return what moves experts between the workers, by command or by the traffic of the attention sides here."""
        return LaunchedMoves(self, placement_of(self.membership, self._checkpoint.config), policy, self.secret)

    def members_by_index(self) -> dict[int, Member]:
        """Return the workers that live."""
        return {member.index: member for member in self.membership.members}

    def traffic_reports(self) -> dict[str, TrafficReport]:
        """Return what each connection to the workers tells of its traffic."""
        sides = [*(side.experts for side in self._sides), *self._attention_sides]
        return {str(number): side.traffic_report() for number, side in enumerate(sides)}

    def publish_placement(self, placement: Placement) -> int:
        """Have everybody send by `placement` from now on; return the epoch that it got."""
        self._epoch += 1
        self._placement = replace(placement, epoch=self._epoch)
        self._publish()
        return self._epoch

    def attention_side(self) -> AttentionSide:
        """Load the rest of the model into this process and return its engine, with streams of its own."""
        loader = AttentionLoader(self._spec, lambda progress: self._report("attention", progress))
        side = loader.finish(loader.load_dense(), self.membership, self.secret)
        self._attention_sides.append(side)
        return side

    def process(self, worker: str) -> "subprocess.Popen[bytes]":
        """Return the process of a worker."""
        return self._workers[worker].process

    def kill(self, worker: str) -> None:
        """End a worker at once, with SIGKILL."""
        process = self.process(worker)
        process.kill()
        process.wait()

    def pause(self, worker: str) -> None:
        """Stop a worker's process where it stands: it keeps its connections and answers nothing."""
        process = self.process(worker)
        process.send_signal(signal.SIGSTOP)
        _wait_until_stopped(process)

    def resume(self, worker: str) -> None:
        """Let a paused worker go on."""
        self.process(worker).send_signal(signal.SIGCONT)

    def restart(self, *workers: str) -> None:
        """Start killed workers anew, all at once and on other ports, and tell everybody."""
        killed = [self._workers[worker] for worker in workers]
        for worker in killed:
            self._retire(worker)
        self._start([(worker.index, worker.incarnation + 1) for worker in killed])
        self._epoch += 1
        self._publish()

    def close(self) -> None:
        """End everything that was started here."""
        for attention in self._attention_sides:
            attention.close()
        for side in self._sides:
            side.experts.close()
        self._attention_sides, self._sides = [], []
        for worker in self._workers.values():
            _close(worker.process.stdin)
        deadline_s = time.monotonic() + _STOP_GRACE_S
        for worker in self._workers.values():
            try:
                worker.process.wait(max(0.0, deadline_s - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.process.kill()
            self._retire(worker)
        self._workers = {}

    def __enter__(self) -> "LaunchedCluster":
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def _publish(self) -> None:
        for side in (*self._sides, *self._attention_sides):
            side.publish(self.membership)

    def _start(self, seats: list[tuple[int, int]]) -> None:
        """Start a worker for each (index, incarnation), all at once, and wait until all are ready."""
        started = [self._spawn(index, incarnation) for index, incarnation in seats]
        deadline_s = time.monotonic() + self._start_timeout_s
        with selectors.DefaultSelector() as selector:
            for worker in started:
                assert worker.process.stdout is not None, "started with a pipe"
                selector.register(worker.process.stdout, selectors.EVENT_READ, worker)
            while waiting := [worker for worker in started if worker.port is None]:
                left_s = deadline_s - time.monotonic()
                if left_s <= 0:
                    names = ", ".join(worker.id for worker in waiting)
                    raise WorkerLost(f"{names} did not start within {self._start_timeout_s:g} s")
                for key, _ in selector.select(left_s):
                    self._listen(key.data)
                    if key.data.port is not None:
                        selector.unregister(key.fileobj)

    def _spawn(self, index: int, incarnation: int) -> _Worker:
        path = os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        process = subprocess.Popen(
            [sys.executable, "-m", "cluster.worker_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,  # a Ctrl-C is ours to handle
        )
        worker = _Worker(index, incarnation, process)
        self._workers[worker.id] = worker
        assert process.stdin is not None, "started with a pipe"
        process.stdin.write(WorkerOrder(self._spec, index, self.secret, self._placement).to_json().encode() + b"\n")
        process.stdin.flush()
        return worker

    def _listen(self, worker: _Worker) -> None:
        """Take in what a starting worker has to say."""
        assert worker.process.stdout is not None, "started with a pipe"
        heard = os.read(worker.process.stdout.fileno(), 65536)
        if not heard:
            raise WorkerLost(f"{worker.id} ended with status {worker.process.wait()} while it started")
        worker.said += heard
        *lines, rest = worker.said.split(b"\n")
        worker.said = bytearray(rest)
        for line in lines:
            self._take(worker, json.loads(line))

    def _take(self, worker: _Worker, document: dict[str, Any]) -> None:
        if "error" in document:
            raise WorkerLost(f"{worker.id} cannot start: {document['error']}")
        if "port" in document:
            worker.port, worker.fingerprint = document["port"], document["fingerprint"]
        else:
            self._report(worker.id, LoadProgress(**document))

    @staticmethod
    def _retire(worker: _Worker) -> None:
        worker.process.wait()
        _close(worker.process.stdin)
        _close(worker.process.stdout)


def _wait_until_stopped(process: "subprocess.Popen[bytes]") -> None:
    """Return when no thread of it runs any more: on a busy machine the signal takes a while to reach all of them."""
    while process.returncode is None:
        pid, status = os.waitpid(process.pid, os.WUNTRACED | os.WNOHANG)
        if pid and os.WIFSTOPPED(status):
            return
        if pid:
            process.returncode = os.waitstatus_to_exitcode(status)
        time.sleep(_STOP_POLL_S)


def _close(pipe: Any) -> None:
    """Close our end of a pipe whose other end may be gone."""
    try:
        pipe.close()
    except BrokenPipeError:
        return
