"""Layout: which stored tensors make up each canonical tensor, with name, dtype, shape and part. Tables, no reading."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch

from model.config import ModelConfig
from model.mxfp4 import BLOCK_BYTES, BLOCK_VALUES

FormatName: TypeAlias = Literal["packed", "bf16", "original"]
"""Hugging Face with MXFP4 experts, Hugging Face with bf16 experts, and the `original/` folder: directories."""

AnyFormatName: TypeAlias = FormatName | Literal["gguf"]
"""Those, and the file of llama.cpp and Ollama."""

PartName: TypeAlias = Literal[
    "embedding", "unembedding", "attention", "gate", "norms", "expert_weights", "expert_biases"
]


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor as a file should hold it."""

    name: str
    shape: tuple[int, ...]
    part: PartName
    dtype: torch.dtype = torch.bfloat16

    @property
    def dtypes(self) -> tuple[torch.dtype, ...]:
        """Return the dtypes a file may hold it in; transformers keeps norms in float32 when it saves a fine-tune."""
        return (self.dtype, torch.float32) if self.part == "norms" else (self.dtype,)

    @property
    def num_bytes(self) -> int:
        """Return the bytes it takes in `dtype`."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


Layout: TypeAlias = dict[str, tuple[StoredTensor, ...]]
"""By canonical name: the stored tensors that give it when joined along their first dimension."""


@dataclass(frozen=True, slots=True)
class TensorPiece:
    """One stored tensor, and what it is a piece of."""

    canonical: str
    group: tuple[StoredTensor, ...]
    """The stored tensors that give the canonical one."""
    position: int

    @property
    def stored(self) -> StoredTensor:
        """Return the piece itself."""
        return self.group[self.position]

    @property
    def first_row(self) -> int:
        """Return where the piece begins in the canonical tensor, in rows."""
        return sum(stored.shape[0] for stored in self.group[: self.position])


def tensor_pieces(layout: Layout) -> list[TensorPiece]:
    """Return every stored tensor of a layout, in the order of its file."""
    return [TensorPiece(name, group, position) for name, group in layout.items() for position in range(len(group))]


@dataclass(frozen=True, slots=True)
class CheckpointFormat:
    """One way to store a model."""

    name: AnyFormatName
    layout: Callable[[ModelConfig], Layout]
    are_experts_packed: bool
    are_experts_transposed: bool = False
    """Whether bf16 expert matrices are stored [E, in, out] instead of [E, out, in]."""


def packed_expert_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return the stacked shapes of MXFP4 experts by field: blocks and scales of both matrices."""
    rows1, blocks1 = 2 * config.intermediate_size, config.hidden_size // BLOCK_VALUES
    rows2, blocks2 = config.hidden_size, config.intermediate_size // BLOCK_VALUES
    return {
        "mlp1_blocks": (config.num_experts, rows1, blocks1, BLOCK_BYTES),
        "mlp1_scales": (config.num_experts, rows1, blocks1),
        "mlp2_blocks": (config.num_experts, rows2, blocks2, BLOCK_BYTES),
        "mlp2_scales": (config.num_experts, rows2, blocks2),
    }


def expert_bias_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return the stacked shapes of the experts' biases by field."""
    return {
        "mlp1_bias": (config.num_experts, 2 * config.intermediate_size),
        "mlp2_bias": (config.num_experts, config.hidden_size),
    }
