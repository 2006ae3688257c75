"""AttentionReplica: attention, gate, KV cache and engine of one Serve replica; its experts are elsewhere, or here too.

A sequence is one call that stays open for its life. Tokens leave by the token stream, which has threads of its own, so
that neither the engine nor the replica's event loop waits for any edge.
"""

import asyncio
import logging
import queue
import threading
import uuid
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayError

from cluster.cluster_spec import ClusterSpec
from cluster.cluster_status import FAILED, PREPARING, READY, ComponentReport, Membership
from cluster.engine.sequence import SequenceRequest, TokenEvent
from cluster.engine.stats import EngineStats
from cluster.errors import EngineStopped
from cluster.held_sequences import HeldSequences
from cluster.lasting import set_lasting_aside
from cluster.membership_refresher import MembershipRefresher
from cluster.progress_reporter import ProgressReporter
from cluster.ray_runtime import NAMESPACE, node_name, read_value
from cluster.sequence_end import SequenceEnd
from cluster.stored_state import StoredState
from cluster.token_stream import ReplicaIdentity, StreamLimits, TokenStreamServer
from model.sampling_params import SamplingParams

if TYPE_CHECKING:
    from cluster.attention_side import AttentionSide
    from cluster.engine.engine_thread import EngineThread
    from cluster.experts.traffic import TrafficReport

NO_EPOCH = -1
_CALL_TIMEOUT_S = 20.0
_RETRY_INTERVAL_S = 1.0
WARM_UP_TIMEOUT_S = 300.0

logger = logging.getLogger(__name__)


class AttentionReplica:
    """The class behind the attention deployment. Its constructor returns when it can serve.

    Torch and the model come into the process with the constructor: whoever only names this class stays light.
    """

    def __init__(self, spec: ClusterSpec) -> None:
        """Load, connect to the workers, run one token through all of it, and begin to take sequences."""
        self._spec = spec
        self._name = f"attention-{uuid.uuid4().hex[:8]}"
        self._reporter = ProgressReporter(self._name, "attention", self._send)
        try:
            self._begin()
        except Exception as error:
            self._send(ComponentReport(self._name, "attention", FAILED, detail=f"{type(error).__name__}: {error}"))
            raise
        self._reporter.serves(self._report)
        threading.Thread(target=self._watch, name="membership", daemon=True).start()

    async def generate(self, request: SequenceRequest, edge_id: str) -> SequenceEnd:
        """Run a sequence to its end; its tokens go to `edge_id` by the token stream.

        Returns at once with a refusal if it cannot be taken in. Cancelling the call aborts the sequence.
        """
        return await self._sequences.run(request, edge_id)

    def record_replica_metadata(self) -> dict[str, Any]:
        """Tell Serve's routers where the token stream listens."""
        return {"token_stream": self._address, "fingerprint": self._side.fingerprint}

    def check_health(self) -> None:
        """Raise EngineStopped once the engine has ended: Serve then makes a new replica."""
        reason = self._side.engine.stopped_because
        if reason is not None:
            raise EngineStopped(reason)

    async def check_integrity(self) -> None:
        """Assert that engine, token stream and held calls agree."""
        self._stream.check_integrity()
        self._sequences.check_integrity()
        await asyncio.to_thread(self._side.engine.check_integrity)

    def _begin(self) -> None:
        self._reporter.stage(PREPARING)
        from cluster.attention_side import AttentionLoader
        from model.fingerprint import kernel_build

        kernel_build(self._spec.attention.device)
        self._reporter.stage("opening the checkpoint")
        loader = AttentionLoader(self._spec, self._reporter.loading)
        dense = loader.load_dense()
        self._membership = self._first_membership()
        secret: str = ray.get(self._supervisor().secret.remote(), timeout=_CALL_TIMEOUT_S)
        self._side: AttentionSide = loader.finish(dense, self._membership, secret)
        self._reporter.stage("warming up")
        warm_up(self._side.engine)
        set_lasting_aside()
        identity = ReplicaIdentity(self._name, self._side.fingerprint)
        limits = StreamLimits(self._spec.attention.heartbeat_timeout_s)
        self._stream = TokenStreamServer(identity, secret, limits, self._abort_all)
        self._sequences = HeldSequences(self._side.engine, self._stream)
        self._side.engine.on_step = self._sequences.on_step
        refresher = MembershipRefresher(self._current_membership, self._side.publish)
        self._side.elastic.ask_by(refresher.ask)
        self._address = self._stream.start(ray.util.get_node_ip_address())

    def _abort_all(self, sequence_ids: list[str]) -> None:
        self._sequences.abort_all(sequence_ids)

    def _first_membership(self) -> Membership:
        report = ComponentReport(self._name, "attention", "waiting for the expert workers")
        epoch = NO_EPOCH
        while True:
            membership = self._next_membership(report, epoch)
            if membership is not None and (membership.members or membership.needs_no_worker):
                return membership
            epoch = epoch if membership is None else membership.epoch

    def _watch(self) -> None:
        """Report and follow the published memberships; end the engine once the stored state wants none of this."""
        while is_wanted(self._spec):
            membership = self._next_membership(self._report(), self._membership.epoch, self._side.traffic_report())
            if membership is not None:
                self._membership = membership
            if membership is not None or self._side.elastic.is_behind:
                self._side.publish(self._membership)
        logger.warning("this revision is not wanted any more: the engine ends")
        self._side.close()

    def _current_membership(self) -> Membership | None:
        return self._next_membership(self._report(), NO_EPOCH)

    def _next_membership(
        self, report: ComponentReport, epoch: int, traffic: "TrafficReport | None" = None
    ) -> Membership | None:
        """Return a membership newer than `epoch`, or None after a while; a supervisor that is away is waited for."""
        try:
            return ray.get(self._supervisor().watch.remote(report, epoch, traffic), timeout=_CALL_TIMEOUT_S)
        except (RayError, ValueError):
            logger.warning("the supervisor does not answer; the membership of epoch %d goes on", epoch)
            threading.Event().wait(_RETRY_INTERVAL_S)
            return None

    def _report(self) -> ComponentReport:
        side, engine = self._side, self._side.engine
        return ComponentReport(
            self._name,
            "attention",
            READY if engine.stopped_because is None else FAILED,
            is_ready=engine.stopped_because is None,
            detail=engine.stopped_because or f"{self._address} on {node_name()}",
            facts={
                "fingerprint": side.fingerprint,
                "kernel_backend": side.kernel_backend,
                "max_context_tokens": str(engine.limits.max_context_tokens),
            },
            stats={**engine_gauges(engine.stats()), **side.dispatch_gauges()},
        )

    def _send(self, report: ComponentReport) -> None:
        try:
            self._supervisor().report.remote(report)
        except ValueError:
            return

    def _supervisor(self) -> Any:
        return ray.get_actor(self._spec.supervisor_name, namespace=NAMESPACE)


def is_wanted(spec: ClusterSpec) -> bool:
    """Return whether the stored state still wants this revision; only a supervisor takes that back."""
    stored = read_value(spec.state_key)
    is_current = read_value(spec.current_key) == spec.revision
    return is_current and stored is not None and StoredState.from_json(stored).is_wanted


def warm_up(engine: "EngineThread") -> None:
    """Compute one token: what is built on first use is built now, and a worker that cannot answer shows.

    Raises EngineStopped saying why if it does not come.
    """
    steps: queue.SimpleQueue[list[TokenEvent]] = queue.SimpleQueue()
    engine.on_step = steps.put
    engine.admit(SequenceRequest("warm-up", (0,), SamplingParams(max_tokens=1, seed=0, ignore_eos=True)))
    try:
        (event,) = steps.get(timeout=WARM_UP_TIMEOUT_S)
    except queue.Empty:
        raise EngineStopped(f"the first token did not come within {WARM_UP_TIMEOUT_S:g} s") from None
    if event.error is not None:
        raise EngineStopped(f"the first token could not be computed: {event.error}")


def engine_gauges(stats: EngineStats) -> dict[str, float]:
    """Return an engine's counts by name, as they are reported."""
    used, free = stats.num_used_blocks, stats.num_free_blocks
    return {
        "num_running": stats.num_running,
        "num_waiting": stats.num_waiting,
        "num_used_blocks": used.full + used.sliding,
        "num_free_blocks": free.full + free.sliding,
        "num_tokens": stats.num_tokens,
        "num_preemptions": stats.num_preemptions,
        "num_drafted": stats.num_drafted,
        "num_accepted": stats.num_accepted,
    }
