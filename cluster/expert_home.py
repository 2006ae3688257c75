"""ExpertHome: what one attention process can do about its experts: load all of them here, or reach workers."""

from collections.abc import Callable
from dataclasses import dataclass

from cluster.cluster_spec import ClusterSpec
from cluster.cluster_status import Membership
from cluster.engine.free_memory import free_bytes
from cluster.remote_side import RemoteSide, connect_experts
from cluster.shard_loading import load_shard
from model.checkpoint.checkpoint import Checkpoint
from model.expert_shard import ExpertShard
from model.load import LoadProgress, all_experts

MEMORY_MARGIN = 1.1
"""So many times the experts' bytes must be free before they are loaded beside what is here."""


@dataclass(frozen=True, slots=True)
class ExpertHome:
    """One process's device, checkpoint and key to the cluster."""

    spec: ClusterSpec
    checkpoint: Checkpoint
    secret: str
    fingerprint: str
    """Of the experts' numerics, were they computed here."""
    report: Callable[[LoadProgress], None]

    def load(self) -> ExpertShard:
        """Return all experts, on this process's device; raises CheckpointError naming file and tensor."""
        sections = self.spec.model, self.spec.numerics
        keys = all_experts(self.checkpoint)
        return load_shard(self.checkpoint, sections, self.spec.attention.device, keys, self.report).shard

    def connect(self, membership: Membership) -> RemoteSide:
        """Return the experts on workers; raises HandshakeRefused naming what differs, or WorkerLost."""
        return connect_experts(self.spec, self.checkpoint, membership, self.secret)

    def difference(self, fingerprint: str | None) -> str:
        """Return why experts here would have other bits than on workers of this fingerprint; empty if the same."""
        if fingerprint in {None, self.fingerprint}:
            return ""
        return f"the experts' bits would be others: numerics {self.fingerprint} here, {fingerprint} on workers"

    def shortage(self) -> str:
        """Return how much memory is missing for all experts to be here; empty if there is enough."""
        config = self.checkpoint.config
        needed = int(MEMORY_MARGIN * config.num_layers * config.num_experts * config.expert_bytes())
        free = free_bytes(self.spec.attention.device)
        return "" if free >= needed else f"all experts need {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free"
