"""ExpertWorker: the Ray actor around one shard of experts and its expert server.

It loads its own slices from the checkpoint, serves them over gRPC, and ends by itself once the stored state no longer
has it: a worker whose supervisor and owner are gone does not hold memory for anybody.
"""

import logging
import os
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import ray

from cluster.cluster_spec import ClusterSpec, worker_id
from cluster.cluster_status import PREPARING, READY, ComponentReport, Member
from cluster.errors import WorkerLost
from cluster.experts.placement import ExpertKey
from cluster.lasting import set_lasting_aside
from cluster.progress_reporter import ProgressReporter
from cluster.ray_runtime import NAMESPACE, node_name, read_value
from cluster.stored_state import StoredState

if TYPE_CHECKING:
    from cluster.expert_side import ServedShare

_CHECK_INTERVAL_S = 2.0
_LAST_WORDS_S = 2.0
"""How long a worker whose device is lost lives on, for its supervisor to hear why."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WorkerSeat:
    """Which worker an actor is, and what it needs to become that."""

    spec: ClusterSpec
    index: int
    incarnation: int
    secret: str

    @property
    def worker_id(self) -> str:
        """Return the worker's id in placements."""
        return worker_id(self.index)


class ExpertWorker:
    """The actor. Torch and the model come into the process with `start`, not with the import of this module."""

    def __init__(self, seat: WorkerSeat) -> None:
        """Take the seat and begin to watch whether it is still wanted."""
        self._seat = seat
        self._holding = threading.Lock()
        self._holder = threading.Event()
        self._end_reason: str | None = None
        self._starting = threading.Lock()
        self._served: ServedShare | None = None
        self._reporter = ProgressReporter(seat.worker_id, "worker", self._send)
        threading.Thread(target=self._watch, name="wanted", daemon=True).start()

    def start(self) -> Member:
        """Load the seat's experts, serve them, and return where; done already, only return it. Blocks.

        Raises what loading raises. A supervisor that was made anew asks again, while the worker serves.
        """
        seat, host = self._seat, ray.util.get_node_ip_address()
        with self._starting:
            served = self._served = self._served or self._serve(host)
        address = f"{host}:{served.port}"
        detail = f"{address} on {node_name()}, incarnation {seat.incarnation}"
        self._send(ComponentReport(seat.worker_id, "worker", READY, is_ready=True, detail=detail))
        return Member(seat.worker_id, seat.index, seat.incarnation, address, served.fingerprint)

    def move(self, epoch: int, keys: frozenset[ExpertKey], *, is_load: bool) -> frozenset[ExpertKey]:
        """Load experts beside those that are here, or drop some; return all that are here then. Blocks.

        Raises what loading raises; what was loaded before stays.
        """
        assert self._served is not None, "it is asked once it is ready"
        host = self._served.host
        return (host.put if is_load else host.drop)(epoch, sorted(keys)).resident

    def hold(self) -> None:
        """Raise WorkerLost saying why when the worker ends; whoever waits for this learns of its death in any case.

        Returns once another supervisor holds the worker: one that is dead must not keep one of the few threads.
        """
        mine = threading.Event()
        with self._holding:
            before, self._holder = self._holder, mine
        before.set()
        mine.wait()
        if self._end_reason is not None:
            raise WorkerLost(self._end_reason)

    def _serve(self, host: str) -> "ServedShare":
        self._reporter.stage(PREPARING)
        from cluster.expert_side import serve_share
        from cluster.experts.server import ServerOptions
        from model.fingerprint import kernel_build

        seat = self._seat
        kernel_build(seat.spec.experts.device)
        self._reporter.stage("opening the checkpoint")
        first, last = seat.spec.experts.port_range
        options = ServerOptions(seat.secret, host, (first, last))
        stored = read_value(seat.spec.state_key)
        moved = None if stored is None else StoredState.from_json(stored).moved_placement
        served = serve_share(seat.spec, seat.index, options, self._reporter.loading, self._end, moved)
        set_lasting_aside()
        return served

    def _end(self, reason: str) -> None:
        """Say why to whoever holds this worker, and end the process even if nobody does."""
        from cluster.experts.expert_host import end_process

        self._end_reason = reason
        self._holder.set()
        threading.Timer(_LAST_WORDS_S, end_process, (reason,)).start()

    def _send(self, report: ComponentReport) -> None:
        """Report to the supervisor, without waiting for it; one that is away misses it."""
        try:
            supervisor = ray.get_actor(self._seat.spec.supervisor_name, namespace=NAMESPACE)
        except ValueError:
            return
        supervisor.report.remote(report)

    def _watch(self) -> None:
        """End this process once the stored state wants another incarnation in this seat, or none."""
        spec = self._seat.spec
        while True:
            stored = read_value(spec.state_key)
            is_current = read_value(spec.current_key) == spec.revision
            is_wanted = stored is not None and StoredState.from_json(stored).wants_worker(
                self._seat.index, self._seat.incarnation
            )
            if not (is_current and is_wanted):
                logger.warning("%s is not wanted any more and ends", self._seat.worker_id)
                os._exit(0)
            time.sleep(_CHECK_INTERVAL_S)
