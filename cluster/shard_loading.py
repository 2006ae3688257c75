"""Loading experts into a shard as the config says: from the checkpoint, or from what an earlier start kept packed."""

from collections.abc import Iterable
from dataclasses import dataclass
from threading import Thread
from typing import TYPE_CHECKING

from model.checkpoint.weights import WeightSource
from model.expert_shard import ExpertKey, ExpertShard
from model.load import Report, load_experts
from model.numerics import Numerics
from model.packed_experts import PackedExperts, packed_experts

if TYPE_CHECKING:
    from cluster.config import ModelSection, NumericsSection


@dataclass(frozen=True, slots=True)
class LoadedShard:
    """A shard with the experts that were asked for, and where more come from."""

    shard: ExpertShard
    source: WeightSource


def load_shard(
    weights: WeightSource,
    sections: tuple["ModelSection", "NumericsSection"],
    device: str,
    keys: Iterable[ExpertKey],
    report: Report,
) -> LoadedShard:
    """Return a shard on `device` that holds the experts `keys`. Raises CheckpointError naming file and tensor."""
    model, numerics_section = sections
    numerics = Numerics.of(numerics_section.mode)
    source = packed_experts(weights, numerics, device) if model.keep_packed_experts else weights
    shard = ExpertShard(weights.config, numerics, device, numerics_section.dequantized_experts_bytes)
    load_experts(source, shard, keys, report)
    if isinstance(source, PackedExperts):
        # Writing gigabytes to disk takes a while, and nobody needs to wait for it.
        Thread(target=source.keep, name="keep-packed-experts", daemon=True).start()
    return LoadedShard(shard, source)
