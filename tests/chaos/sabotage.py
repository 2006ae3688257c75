"""Faults at planned points of the dispatch, on real processes: the transport in use, with a hand on its way.

The transport itself is untouched. At the n-th request that leaves, the worker that it goes to is killed or stopped:
before it is sent, while the worker has it, or when its answer has come and was not yet taken in.
"""

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np

from cluster.experts.client import GrpcExpertTransport
from cluster.experts.dispatch_events import Answered, StreamEvent
from cluster.experts.messages import ExpertRequest
from cluster.experts.placement import WorkerId
from cluster.experts.transport import Sink
from cluster.launch import LaunchedCluster


class Point(Enum):
    """Where on a request's way its worker is struck."""

    BEFORE_SEND = "before send"
    IN_FLIGHT = "in flight"
    """The worker has stopped when the request reaches it, so that it cannot have answered, and is killed then."""
    BEFORE_COMBINE = "before combine"
    """The worker's answer has arrived, and is taken in after its death."""


@dataclass(frozen=True)
class Fault:
    """One worker struck. It is whoever the request goes to."""

    at_send: int
    """Strike at the first request from this one on, counted from the beginning of the run."""
    point: Point
    is_kill: bool
    """SIGKILL; else SIGSTOP, and SIGCONT when `hang_sends` more requests have left."""
    hang_sends: int = 40


def random_faults(seed: int, num_faults: int, num_sends: int) -> tuple[Fault, ...]:
    """Return faults at random points within `num_sends`; every second one is followed by another at the next send."""
    rng = np.random.default_rng(seed)
    faults: list[Fault] = []
    for number in range(num_faults):
        is_double = number % 2 == 1
        at_send = faults[-1].at_send + 1 if is_double else int(rng.integers(1, num_sends))
        point = list(Point)[rng.integers(len(Point))]
        faults.append(Fault(at_send, point, bool(rng.random() < 0.5), int(rng.integers(5, 120))))
    return tuple(sorted(faults, key=lambda fault: fault.at_send))


class Saboteur:
    """Carries out faults on a cluster, each once. Called from the engine's thread and the transport's."""

    def __init__(self) -> None:
        """Do nothing until armed."""
        self.struck: list[tuple[Fault, WorkerId]] = []
        self.struck_s: list[float] = []
        """When, by the monotonic clock."""
        self._cluster: LaunchedCluster | None = None
        self._lock = threading.RLock()
        self._num_sends = 0
        self._pending: list[Fault] = []
        self._on_answer: dict[int, Fault] = {}
        self._hung: dict[WorkerId, int] = {}

    @property
    def num_sends(self) -> int:
        """Return how many requests have left since it was armed."""
        return self._num_sends

    def arm(self, cluster: LaunchedCluster, faults: tuple[Fault, ...]) -> None:
        """Begin to count requests, and strike at `faults`."""
        with self._lock:
            self._cluster, self._num_sends, self._pending = cluster, 0, list(faults)
            self._on_answer, self.struck, self.struck_s = {}, [], []

    def disarm(self) -> tuple[WorkerId, ...]:
        """Strike no more, let whoever hangs go on, and return who was killed."""
        with self._lock:
            self._pending, self._on_answer = [], {}
            for worker in list(self._hung):
                self._resume(worker)
            return tuple(worker for fault, worker in self.struck if fault.is_kill)

    def send(self, transport: "SabotagedTransport", worker: WorkerId, request: ExpertRequest) -> None:
        """Let a request leave, and strike if it is its turn."""
        with self._lock:
            self._num_sends += 1
            for hung, until in list(self._hung.items()):
                if self._num_sends >= until:
                    self._resume(hung)
            fault = self._next_fault(worker)
            if fault is not None and fault.point is Point.BEFORE_COMBINE:
                self._on_answer[request.key.send] = fault
            elif fault is not None:
                self._stop(worker) if fault.point is Point.IN_FLIGHT else self._strike(fault, worker)
        transport.pass_on(worker, request)
        if fault is not None and fault.point is Point.IN_FLIGHT:
            with self._lock:
                self._strike(fault, worker)

    def answered(self, event: StreamEvent) -> None:
        """See an answer that has arrived, before anybody else does."""
        with self._lock:
            fault = self._on_answer.pop(event.answer.key.send, None) if isinstance(event, Answered) else None
            if fault is not None and self._is_alive(event.worker):
                self._strike(fault, event.worker)

    def _next_fault(self, worker: WorkerId) -> Fault | None:
        if not self._pending or self._num_sends < self._pending[0].at_send or not self._is_alive(worker):
            return None
        return self._pending.pop(0)

    def _is_alive(self, worker: WorkerId) -> bool:
        assert self._cluster is not None, "not armed"
        return worker not in self._hung and self._cluster.process(worker).poll() is None

    def _strike(self, fault: Fault, worker: WorkerId) -> None:
        assert self._cluster is not None, "not armed"
        if fault.is_kill:
            self._hung.pop(worker, None)
            self._cluster.kill(worker)
        else:
            self._stop(worker)
            self._hung[worker] = self._num_sends + fault.hang_sends
        self.struck.append((fault, worker))
        self.struck_s.append(time.monotonic())

    def _stop(self, worker: WorkerId) -> None:
        assert self._cluster is not None, "not armed"
        if worker not in self._hung:
            self._cluster.pause(worker)
            self._hung[worker] = self._num_sends + 10**9

    def _resume(self, worker: WorkerId) -> None:
        assert self._cluster is not None, "not armed"
        del self._hung[worker]
        self._cluster.resume(worker)


class SabotagedTransport(GrpcExpertTransport):
    """The transport of production, with every request and answer passing the saboteur of its class."""

    saboteur: Saboteur

    def start(self, sink: Sink) -> None:
        """Connect as ever; answers pass the saboteur first."""

        def seen(event: StreamEvent) -> None:
            self.saboteur.answered(event)
            sink(event)

        super().start(seen)

    def send(self, worker: WorkerId, request: ExpertRequest) -> None:
        """Send past the saboteur."""
        self.saboteur.send(self, worker, request)

    def pass_on(self, worker: WorkerId, request: ExpertRequest) -> None:
        """Send as production does."""
        super().send(worker, request)


def sabotaged(saboteur: Saboteur) -> type[SabotagedTransport]:
    """Return the transport class whose instances pass `saboteur`."""
    members: Mapping[str, Any] = {"saboteur": saboteur}
    return type("Sabotaged", (SabotagedTransport,), dict(members))
