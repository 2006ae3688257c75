"""The expert side of a model in one process: a shard of the experts behind an expert server. No Ray here."""

from collections.abc import Callable

from cluster.attention_side import frame_format_of, worker_fingerprint
from cluster.cluster_spec import ClusterSpec, worker_id
from cluster.experts.expert_host import ExpertHost, WorkerIdentity
from cluster.experts.handshake import Agreement, model_digest
from cluster.experts.placement import Placement
from cluster.experts.server import ExpertServer, ServerOptions
from cluster.model_source import open_model
from cluster.shard_loading import load_shard
from model.kernels.threads import use_threads
from model.load import LoadProgress


def serve_share(
    spec: ClusterSpec, index: int, options: ServerOptions, report: Callable[[LoadProgress], None]
) -> tuple[ExpertServer, int]:
    """Load a worker's share of the experts and serve it; return the server and its port.

    Raises CheckpointError naming file and tensor, or OSError if no port of the range is free.
    """
    use_threads(spec.experts.num_threads)
    checkpoint = open_model(spec.model.path)
    config = checkpoint.config
    share = share_of(spec, index, config.num_layers, config.num_experts)
    loaded = load_shard(checkpoint, (spec.model, spec.numerics), spec.experts.device, share, report)
    agreement = Agreement(model_digest(checkpoint), worker_fingerprint(spec))
    identity = WorkerIdentity(worker_id(index), agreement, spec.experts.device)
    host = ExpertHost(loaded.shard, frame_format_of(spec, config), identity, loaded.source.expert)
    server = ExpertServer(host, options)
    return server, server.start()


def share_of(spec: ClusterSpec, index: int, num_layers: int, num_experts: int) -> frozenset[tuple[int, int]]:
    """Return the (layer, expert) pairs that a worker is to hold. Raises PlacementError if they cannot be placed."""
    workers = [worker_id(each) for each in range(spec.experts.num_workers)]
    placement = Placement.uniform(num_layers, num_experts, workers, spec.experts.copies)
    return placement.experts_on(worker_id(index))
