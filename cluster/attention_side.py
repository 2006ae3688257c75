"""The attention side of a model in one process: dense weights, KV cache, engine, and the way to its experts.

Ray appears nowhere: an attention replica drives this, and so can a plain process.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from cluster.cluster_spec import ClusterSpec
from cluster.cluster_status import Membership
from cluster.elastic_side import ElasticSide
from cluster.engine.build import build_engine
from cluster.engine.engine_thread import EngineThread
from cluster.errors import HandshakeRefused
from cluster.expert_home import ExpertHome
from cluster.experts.traffic import TrafficReport
from cluster.model_source import check_context, open_model
from cluster.remote_side import RemoteSide
from model.checkpoint.checkpoint import Checkpoint
from model.fingerprint import joint_fingerprint, kernel_build, numerics_fingerprint
from model.kernels.threads import use_threads
from model.load import DenseOptions, LoadProgress, load_transformer
from model.numerics import Numerics
from model.transformer import Transformer

Report = Callable[[LoadProgress], None]

END_TIMEOUT_S = 1.0
"""How long a step may still wait for workers once the engine is to end."""


@dataclass(slots=True)
class AttentionSide:
    """What an attention process runs."""

    engine: EngineThread
    fingerprint: str
    """Of the numerics here and on the workers together."""
    kernel_backend: str
    elastic: ElasticSide

    @property
    def remote(self) -> RemoteSide | None:
        """Return the way to the workers; None if there never were any."""
        return self.elastic.remote

    def dispatch_gauges(self) -> dict[str, float]:
        """Return the dispatch's counts by name, as they are reported; none without workers."""
        return {} if self.remote is None else self.remote.experts.counters.gauges()

    def traffic_report(self) -> TrafficReport:
        """Return which experts were chosen lately, and the oldest epoch in use."""
        return self.elastic.traffic_report()

    def publish(self, membership: Membership) -> None:
        """Follow a membership. One whose workers' bits are others ends the engine: no sequence may go on with them."""
        try:
            self.elastic.follow(membership)
        except HandshakeRefused as error:
            self.engine.end(str(error))
            self._hurry()

    def close(self) -> None:
        """End the engine and the streams to workers."""
        self._hurry()
        self.engine.stop()
        self.elastic.close()

    def _hurry(self) -> None:
        if self.remote is not None:
            self.remote.experts.hurry(END_TIMEOUT_S)


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
        self._experts_fingerprint = numerics_fingerprint(self._device, Numerics.of(section.mode))
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
        home = ExpertHome(spec, self._checkpoint, secret, self._experts_fingerprint, self._report)
        elastic = ElasticSide(self._checkpoint.config, home)
        elastic.begin(membership)
        engine = build_engine(transformer, elastic.lent, spec.engine, spec.model.max_context_tokens)
        engine.start()
        experts_fingerprint = membership.worker_fingerprint or self._experts_fingerprint
        fingerprint = joint_fingerprint(self.fingerprint, experts_fingerprint)
        return AttentionSide(engine, fingerprint, kernel_build(self._device), elastic)


def dense_dtype(spec: ClusterSpec) -> torch.dtype:
    """Return how dense weights lie in memory, those aside that the numerics keep in 8 bits."""
    return torch.float32 if spec.numerics.dense_weights == "float32" else torch.bfloat16
