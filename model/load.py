"""From a checkpoint to resident weights, with progress."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields, replace
from typing import TypeVar

import torch
from torch import Tensor

from model.checkpoint.q8_dense import Q8Dense
from model.checkpoint.weights import WeightSource
from model.expert_shard import ExpertKey, ExpertShard
from model.numerics import Numerics
from model.q8 import is_q8
from model.transformer import Transformer, TransformerWeights

Report = Callable[["LoadProgress"], None]
_EXPERTS_BETWEEN_RELEASES = 8
Weights = TypeVar("Weights")


@dataclass(frozen=True, slots=True)
class LoadProgress:
    """How far a load has come."""

    what: str
    """`dense weights` or `experts`."""
    done: int
    total: int
    """Parts loaded and to load: layers, or experts of layers."""


def no_report(progress: LoadProgress) -> None:
    """Tell nobody."""


@dataclass(frozen=True, slots=True)
class DenseOptions:
    """How dense weights become resident."""

    device: str
    dtype: torch.dtype
    """f32 or bf16, for what the numerics do not keep in 8 bits; the values are the same."""
    max_positions: int | None = None


def load_transformer(
    checkpoint: WeightSource, numerics: Numerics, options: DenseOptions, report: Report = no_report
) -> Transformer:
    """Return the transformer of `checkpoint`, all but its experts resident on the device.

    Raises CheckpointError naming file and tensor.
    """

    def resident(weights: Weights) -> Weights:
        return _resident(weights, options)

    if numerics.has_q8_dense:
        checkpoint = Q8Dense.of(checkpoint)
    config = checkpoint.config
    layers = range(config.num_layers)
    total = 2 + config.num_layers
    report(LoadProgress("dense weights", 0, total))
    embedding = checkpoint.embedding().embedding.to(options.device)
    attention = []
    gates = []
    for layer in layers:
        attention.append(resident(checkpoint.attention(layer)))
        gates.append(resident(checkpoint.gate(layer)))
        report(LoadProgress("dense weights", 1 + len(gates), total))
    weights = TransformerWeights(embedding, attention, gates, resident(checkpoint.head()))
    transformer = Transformer(config, weights, numerics, options.max_positions)
    checkpoint.release()
    report(LoadProgress("dense weights", total, total))
    return transformer


def load_experts(
    checkpoint: WeightSource, shard: ExpertShard, keys: Iterable[ExpertKey], report: Report = no_report
) -> None:
    """Put the experts `keys` into `shard`, one at a time, by slices.

    Raises CheckpointError naming file and tensor; what was put before stays.
    """
    wanted = sorted(keys)
    report(LoadProgress("experts", 0, len(wanted)))
    for done, (layer, expert) in enumerate(wanted, start=1):
        shard.put(layer, expert, checkpoint.expert(layer, expert))
        if done % _EXPERTS_BETWEEN_RELEASES == 0 or done == len(wanted):
            checkpoint.release()
        report(LoadProgress("experts", done, len(wanted)))


def all_experts(checkpoint: WeightSource) -> Iterator[ExpertKey]:
    """Return every (layer, expert) of the checkpoint."""
    config = checkpoint.config
    return ((layer, expert) for layer in range(config.num_layers) for expert in range(config.num_experts))


def _resident(weights: Weights, options: DenseOptions) -> Weights:
    moved: dict[str, Tensor] = {}
    for field in fields(weights):  # pyright: ignore[reportArgumentType] - every weight class is a dataclass of tensors
        tensor: Tensor = getattr(weights, field.name)
        moved[field.name] = tensor.to(options.device, tensor.dtype if is_q8(tensor) else options.dtype)
    return replace(weights, **moved)  # pyright: ignore[reportArgumentType]
