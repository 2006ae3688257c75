"""The expert side of a model in one process: a shard of the experts behind an expert server. No Ray here."""

from collections.abc import Callable
from dataclasses import dataclass

from cluster.cluster_spec import ClusterSpec, worker_id
from cluster.experts.expert_host import ExpertHost, WorkerIdentity, end_process
from cluster.experts.first_placement import current_placement, share_of
from cluster.experts.handshake import Agreement, model_digest
from cluster.experts.placement import Placement
from cluster.experts.server import ExpertServer, ServerOptions
from cluster.model_source import open_model
from cluster.remote_side import frame_format_of
from cluster.shard_loading import load_shard
from model.fingerprint import numerics_fingerprint
from model.kernels.threads import use_threads
from model.load import LoadProgress
from model.numerics import Numerics


@dataclass(frozen=True, slots=True)
class ServedShare:
    """A worker's experts behind their server."""

    server: ExpertServer
    port: int
    fingerprint: str
    """Of the numerics on this worker's device."""
    host: ExpertHost


def serve_share(
    spec: ClusterSpec,
    index: int,
    options: ServerOptions,
    report: Callable[[LoadProgress], None],
    on_device_lost: Callable[[str], None] = end_process,
    moved: Placement | None = None,
) -> ServedShare:
    """Load a worker's share of the experts and serve it; `moved` says where experts are if some were moved.

    `on_device_lost` is called with the reason when the device computes nothing more; the process should end soon.
    Raises CheckpointError naming file and tensor, or OSError if no port of the range is free.
    """
    use_threads(spec.experts.num_threads)
    checkpoint = open_model(spec.model.path)
    config = checkpoint.config
    placement = current_placement(share_of(spec.experts), moved, (config.num_layers, config.num_experts), 0)
    share = placement.experts_on(worker_id(index))
    loaded = load_shard(checkpoint, (spec.model, spec.numerics), spec.experts.device, share, report)
    fingerprint = numerics_fingerprint(spec.experts.device, Numerics.of(spec.numerics.mode))
    agreement = Agreement(model_digest(checkpoint), fingerprint)
    identity = WorkerIdentity(worker_id(index), agreement, spec.experts.device)
    host = ExpertHost(loaded.shard, frame_format_of(spec, config), identity, loaded.source.expert)
    host.on_device_lost = on_device_lost
    server = ExpertServer(host, options)
    return ServedShare(server, server.start(), fingerprint, host)
