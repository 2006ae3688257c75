"""The sizes of a gpt-oss model by part, computed from its configuration without allocating anything."""

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from model.mxfp4 import BLOCK_BYTES, BLOCK_VALUES

if TYPE_CHECKING:
    from model.config import ModelConfig

BF16_BYTES = 2


@dataclass(frozen=True, slots=True)
class PartSizes:
    """One number for each part of a model: its bytes in a checkpoint, or its parameters."""

    embedding: int
    unembedding: int
    attention: int
    gate: int
    norms: int
    expert_weights: int
    expert_biases: int

    @property
    def experts(self) -> int:
        """Return what lives on expert workers."""
        return self.expert_weights + self.expert_biases

    @property
    def dense(self) -> int:
        """Return what lives beside attention."""
        return self.total - self.experts

    @property
    def total(self) -> int:
        """Return the sum of all parts."""
        return sum(getattr(self, field.name) for field in fields(self))


def part_parameters(config: "ModelConfig") -> PartSizes:
    """Return the parameters of each part."""
    hidden, layers = config.hidden_size, config.num_layers
    query_size = config.num_heads * config.head_dim
    attention = (hidden + 1) * config.qkv_size + (query_size + 1) * hidden + config.num_heads
    return PartSizes(
        embedding=config.vocab_size * hidden,
        unembedding=config.vocab_size * hidden,
        attention=layers * attention,
        gate=layers * config.num_experts * (hidden + 1),
        norms=(2 * layers + 1) * hidden,
        expert_weights=layers * config.num_experts * _expert_weights(config),
        expert_biases=layers * config.num_experts * _expert_biases(config),
    )


def part_bytes(config: "ModelConfig", packed: bool = True) -> PartSizes:
    """Return the bytes of each part in a checkpoint: experts as MXFP4 if `packed`, all else bf16."""
    parameters = part_parameters(config)
    sizes = {field.name: BF16_BYTES * getattr(parameters, field.name) for field in fields(PartSizes)}
    if packed:
        sizes["expert_weights"] = _packed_bytes(parameters.expert_weights)
    return PartSizes(**sizes)


def expert_bytes(config: "ModelConfig", packed: bool = True) -> int:
    """Return the bytes of one expert of one layer: weights and biases."""
    weights = _expert_weights(config)
    return (_packed_bytes(weights) if packed else BF16_BYTES * weights) + BF16_BYTES * _expert_biases(config)


def _expert_weights(config: "ModelConfig") -> int:
    return 3 * config.hidden_size * config.intermediate_size


def _expert_biases(config: "ModelConfig") -> int:
    return 2 * config.intermediate_size + config.hidden_size


def _packed_bytes(num_values: int) -> int:
    return num_values // BLOCK_VALUES * (BLOCK_BYTES + 1)
