"""The experts of a model on workers, as one attention process reaches them: streams, dispatch, and who stands in."""

import threading
from dataclasses import dataclass, field

from cluster.cluster_spec import ClusterSpec
from cluster.cluster_status import Membership
from cluster.errors import ExpertError, HandshakeRefused, WorkerLost
from cluster.experts.client import ClientOptions, GrpcExpertTransport
from cluster.experts.dispatch_limits import DispatchLimits
from cluster.experts.fallback_shard import FallbackShard
from cluster.experts.first_placement import Share, current_placement
from cluster.experts.handshake import Agreement, model_digest, new_incarnation
from cluster.experts.messages import FrameFormat
from cluster.experts.placement import Placement
from cluster.experts.remote_experts import RemoteExperts
from cluster.experts.token_dispatcher import TokenDispatcher
from model.checkpoint.checkpoint import Checkpoint
from model.config import ModelConfig
from model.expert_shard import ExpertShard
from model.fingerprint import numerics_fingerprint
from model.numerics import Numerics


@dataclass(slots=True)
class RemoteSide:
    """Experts on workers, and what changes when a membership is published."""

    experts: RemoteExperts
    transport: GrpcExpertTransport
    config: ModelConfig
    fingerprint: str
    """Of the workers' numerics."""
    epoch: int
    """Of the membership in use."""
    _publishing: threading.Lock = field(default_factory=threading.Lock)

    def publish(self, membership: Membership) -> None:
        """Send by this membership, unless a newer one is in use; raises HandshakeRefused if its bits are others.

        May be called from any thread, and with the same membership again.
        """
        if membership.worker_fingerprint not in {None, self.fingerprint}:
            raise HandshakeRefused(
                f"all workers were replaced: their numerics fingerprint is {membership.worker_fingerprint}, "
                f"that of the ones before was {self.fingerprint}"
            )
        with self._publishing:
            if membership.epoch >= self.epoch:
                self.epoch = membership.epoch
                self.transport.set_workers(addresses_of(membership))
                self.experts.publish(placement_of(membership, self.config))


def connect_experts(spec: ClusterSpec, checkpoint: Checkpoint, membership: Membership, secret: str) -> RemoteSide:
    """Return the experts behind streams that are open. Raises HandshakeRefused naming what differs, or WorkerLost.

    All workers must compute like the membership's first; this process may have other hardware.
    """
    section, config, fingerprint = spec.experts, checkpoint.config, membership.worker_fingerprint
    if fingerprint is None:
        raise WorkerLost(f"none of the {membership.num_workers} expert workers is there")
    frame_format = frame_format_of(spec, config)
    agreement = Agreement(model_digest(checkpoint), fingerprint)
    incarnation = new_incarnation()
    options = ClientOptions(secret, agreement, incarnation, section.connect_timeout_s)
    transport = GrpcExpertTransport(frame_format, options, addresses_of(membership))
    fallback = fallback_shard(spec, checkpoint, fingerprint)
    dispatcher = TokenDispatcher(
        placement_of(membership, config),
        incarnation,
        frame_format.output_dtype,
        dispatch_limits(spec),
        has_fallback=fallback is not None,
    )
    device: str = spec.attention.device
    experts = RemoteExperts(dispatcher, transport, frame_format, fallback=fallback, local_device=device)
    try:
        experts.wait_until_connected(section.connect_timeout_s, [member.worker_id for member in membership.members])
    except ExpertError:
        experts.close()
        raise
    return RemoteSide(experts, transport, config, fingerprint, membership.epoch)


def dispatch_limits(spec: ClusterSpec) -> DispatchLimits:
    """Return how long a dispatcher of this application waits."""
    section = spec.experts
    return DispatchLimits(
        reply_timeout_s=section.reply_timeout_s,
        layer_timeout_s=section.layer_timeout_s,
        min_hedge_s=section.min_hedge_s,
        max_reply_ratio=section.max_reply_ratio,
        hedge_fraction=section.hedge_fraction,
    )


def fallback_shard(spec: ClusterSpec, checkpoint: Checkpoint, fingerprint: str) -> FallbackShard | None:
    """Return what stands in for workers of this fingerprint; None where it may not, or would give other bits."""
    numerics, device = Numerics.of(spec.numerics.mode), spec.attention.device
    if not spec.experts.fallback_bytes or numerics_fingerprint(device, numerics) != fingerprint:
        return None
    shard = ExpertShard(checkpoint.config, numerics, device, dequantized_bytes=0)
    return FallbackShard(shard, checkpoint, spec.experts.fallback_bytes)


def placement_of(membership: Membership, config: ModelConfig) -> Placement:
    """Return where the experts are: a worker that is away keeps its share, and another copy answers meanwhile."""
    share = Share(membership.num_workers, membership.copies, membership.num_spare_slots)
    return current_placement(share, membership.placement, (config.num_layers, config.num_experts), membership.epoch)


def addresses_of(membership: Membership) -> dict[str, str]:
    """Return where the workers that are there listen."""
    return {member.worker_id: member.address for member in membership.members}


def frame_format_of(spec: ClusterSpec, config: ModelConfig) -> FrameFormat:
    """Return what frames between this application's processes look like."""
    return FrameFormat.of(config, Numerics.of(spec.numerics.mode), spec.engine.max_step_tokens)
