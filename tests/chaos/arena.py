"""A cluster to strike at: real worker processes, the engine in this process, and the proof that nothing is left."""

import socket
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil
import pytest

from cluster import remote_side
from cluster.attention_side import AttentionSide
from cluster.cluster_spec import ClusterSpec
from cluster.config import AttentionSection, EngineSection, ExpertsSection, ModelSection, NumericsSection
from cluster.experts.remote_experts import RemoteExperts
from cluster.launch import LaunchedCluster
from tests.chaos.mixed_sequences import Outcome, mixed_sequences, run_all
from tests.chaos.sabotage import Fault, Saboteur, sabotaged
from tests.cluster.experts.hand import until
from tests.cluster.experts.served import nothing_left

ENGINE = EngineSection(
    logit_digests=True, max_step_tokens=64, max_running_sequences=18, kv_cache_bytes=1 << 26, prefix_cache=False
)


def spec_of(experts: ExpertsSection) -> ClusterSpec:
    """Return the tiny model on the workers that `experts` describes."""
    model, numerics = ModelSection(max_context_tokens=512), NumericsSection(dense_weights="float32")
    return ClusterSpec("chaos", model, numerics, ENGINE, experts, AttentionSection())


@dataclass
class Arena:
    """The tiny model in use, and a hand on its dispatch."""

    cluster: LaunchedCluster
    side: AttentionSide
    saboteur: Saboteur

    @property
    def experts(self) -> RemoteExperts:
        """Return the experts behind the engine."""
        assert self.side.remote is not None, "the experts are on workers"
        return self.side.remote.experts

    def run(self, faults: tuple[Fault, ...] = ()) -> Outcome:
        """Run the mixed sequences with `faults` on their way; afterwards every layer's books are closed."""
        self.saboteur.arm(self.cluster, faults)
        try:
            outcome = run_all(self.side.engine, mixed_sequences())
        finally:
            self.killed = self.saboteur.disarm()
        self.check_integrity()
        return outcome

    def check_integrity(self) -> None:
        """Fail if the dispatch holds on to anything, or the engine to a sequence."""
        dispatcher = self.experts._dispatcher
        assert (dispatcher._works, dispatcher._sent, dispatcher._tickets) == ({}, {}, {})
        stats = self.side.engine.stats()
        assert (stats.num_running, stats.num_waiting, stats.num_failed_steps) == (0, 0, 0)
        assert stats.num_free_blocks == stats.num_blocks

    def mend(self) -> None:
        """Start all killed workers anew, and wait until everybody can be asked and nobody is suspected."""
        dead = [worker for worker in self.workers if self.cluster.process(worker).poll() is not None]
        if dead:
            self.cluster.restart(*dead)
        until(lambda: self.experts.open_workers >= set(self.workers), timeout_s=30.0)
        until(lambda: self.experts._dispatcher.is_whole, timeout_s=30.0)

    @property
    def workers(self) -> list[str]:
        """Return the ids of all workers, dead or alive."""
        return list(self.cluster._workers)


@contextmanager
def arena(experts: ExpertsSection) -> Generator[Arena]:
    """Give a running arena; afterwards no process, thread, socket or port of it is left."""
    saboteur = Saboteur()
    pids: set[int] = set()
    addresses: set[str] = set()
    with nothing_left(), pytest.MonkeyPatch.context() as patch:
        with LaunchedCluster(spec_of(experts)) as cluster:
            patch.setattr(remote_side, "GrpcExpertTransport", sabotaged(saboteur))
            yield Arena(cluster, cluster.attention_side(), saboteur)
            pids = {cluster.process(worker).pid for worker in cluster._workers}
            addresses = {member.address for member in cluster.membership.members}
        assert pids
        assert not [pid for pid in pids if psutil.pid_exists(pid)]
        assert not [address for address in addresses if _listens(address)]


def _listens(address: str) -> bool:
    host, port = address.rsplit(":", 1)
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0
