"""The attention side of a model in one process: dense weights, KV cache, engine, and the way to its experts.

Ray appears nowhere: an attention replica drives this, and so can a plain process.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from cluster.cluster_spec import ClusterSpec
from cluster.cluster_status import Membership
from cluster.engine.build import build_engine
from cluster.engine.engine_thread import EngineThread
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
from cluster.experts.traffic import TrafficReport
from cluster.model_source import check_context, open_model
from cluster.shard_loading import load_shard
from model.checkpoint.checkpoint import Checkpoint
from model.config import ModelConfig
from model.expert_shard import ExpertShard
from model.fingerprint import joint_fingerprint, kernel_build, numerics_fingerprint
from model.kernels.threads import use_threads
from model.load import DenseOptions, LoadProgress, all_experts, load_transformer
from model.moe import Experts
from model.numerics import Numerics
from model.transformer import Transformer

Report = Callable[[LoadProgress], None]

END_TIMEOUT_S = 1.0
"""How long a step may still wait for workers once the engine is to end."""


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


@dataclass(slots=True)
class AttentionSide:
    """What an attention process runs."""

    engine: EngineThread
    fingerprint: str
    """Of the numerics here and on the workers together."""
    kernel_backend: str
    remote: RemoteSide | None
    """None if the experts are here."""

    def dispatch_gauges(self) -> dict[str, float]:
        """Return the dispatch's counts by name, as they are reported; none if the experts are here."""
        return {} if self.remote is None else self.remote.experts.counters.gauges()

    def traffic_report(self) -> TrafficReport | None:
        """Return which experts were chosen lately, and the oldest epoch in use; None if the experts are here."""
        return None if self.remote is None else self.remote.experts.traffic_report()

    def publish(self, membership: Membership) -> None:
        """Follow a membership. One whose workers' bits are others ends the engine: no sequence may go on with them."""
        if self.remote is None:
            return
        try:
            self.remote.publish(membership)
        except HandshakeRefused as error:
            self.engine.end(str(error))
            self.remote.experts.hurry(END_TIMEOUT_S)

    def close(self) -> None:
        """End the engine and the streams to workers."""
        if self.remote is not None:
            self.remote.experts.hurry(END_TIMEOUT_S)
        self.engine.stop()
        if self.remote is not None:
            self.remote.experts.close()


class AttentionLoader:
    """Loads an attention side in steps, because workers must be there before the last one."""

    def __init__(self, spec: ClusterSpec, report: Report) -> None:
        """Open the checkpoint; raises CheckpointError."""
        self._spec = spec
        self._report = report
        section = spec.numerics
        self._numerics = Numerics.of(section.mode, section.kv_cache_dtype, section.dense_weights)
        self._device: str = spec.attention.device
        self._checkpoint: Checkpoint = open_model(spec.model.path)
        check_context(self._checkpoint.config, spec.model.max_context_tokens)
        self.fingerprint = numerics_fingerprint(self._device, self._numerics)
        use_threads(spec.attention.num_threads)

    def load_dense(self) -> Transformer:
        """Return the model without its experts, resident; raises CheckpointError."""
        spec = self._spec
        options = DenseOptions(self._device, dense_dtype(spec), spec.model.max_context_tokens)
        return load_transformer(self._checkpoint, self._numerics, options, self._report)

    def finish(self, transformer: Transformer, membership: Membership, secret: str) -> AttentionSide:
        """Connect to the experts, or load them too, and start the engine; its `on_step` is yet to be set.

        Raises CheckpointError, HandshakeRefused naming what differs, WorkerLost, or ValueError naming a limit.
        """
        spec = self._spec
        is_remote = spec.experts.num_workers > 0
        remote = connect_experts(spec, self._checkpoint, membership, secret) if is_remote else None
        experts: Experts = self._load_experts() if remote is None else remote.experts
        engine = build_engine(transformer, experts, spec.engine, spec.model.max_context_tokens)
        engine.start()
        fingerprint = joint_fingerprint(self.fingerprint, membership.worker_fingerprint if is_remote else None)
        return AttentionSide(engine, fingerprint, kernel_build(self._device), remote)

    def _load_experts(self) -> ExpertShard:
        sections = self._spec.model, self._spec.numerics
        keys = all_experts(self._checkpoint)
        return load_shard(self._checkpoint, sections, self._device, keys, self._report).shard


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


def dense_dtype(spec: ClusterSpec) -> torch.dtype:
    """Return how dense weights lie in memory, those aside that the numerics keep in 8 bits."""
    return torch.float32 if spec.numerics.dense_weights == "float32" else torch.bfloat16
