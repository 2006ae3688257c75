"""The paged key and value tensors, in two groups: full-attention layers and sliding-window layers.

A block id addresses the same block in every layer of its group. Block 0 of each group is never handed out. Who owns
which block is the engine's business.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from model.config import ModelConfig
from model.kernels.attention_tiles import SPLIT_TOKENS
from model.kernels.int8_rows import Int8Rows, Paged, head_bytes


@dataclass(frozen=True, slots=True)
class KVCacheShape:
    """How much the cache holds."""

    num_blocks_full: int
    num_blocks_sliding: int
    block_tokens: int

    def __post_init__(self) -> None:
        """Refuse a block size that does not divide attention's fixed splits."""
        if SPLIT_TOKENS % self.block_tokens:
            raise ValueError(f"block_tokens is {self.block_tokens}; it must divide {SPLIT_TOKENS}")


class KVCache:
    """Keys and values of every layer."""

    def __init__(self, config: ModelConfig, shape: KVCacheShape, dtype: torch.dtype, device: str) -> None:
        """Allocate both groups on `device`, filled with zeros; int8 means quantised, with scales beside."""
        self.shape = shape
        self.dtype = dtype
        self.device = device
        blocks = {"full": shape.num_blocks_full, "sliding": shape.num_blocks_sliding}
        self._paged: list[Tensor] = [
            torch.zeros(
                (2, blocks[kind], shape.block_tokens, config.num_kv_heads, config.head_dim), dtype=dtype, device=device
            )
            for kind in config.layer_types
        ]
        self._scales: list[Tensor] = [
            torch.zeros(paged.shape[:-1], device=device) for paged in self._paged if dtype == torch.int8
        ]

    def layer(self, layer: int) -> tuple[Paged, Paged]:
        """Return keys and values of `layer`, each [B, block_tokens, G, D]."""
        keys, values = self._paged[layer]
        if not self._scales:
            return keys, values
        key_scales, value_scales = self._scales[layer]
        return Int8Rows(keys, key_scales), Int8Rows(values, value_scales)

    @property
    def num_bytes(self) -> int:
        """Return the bytes that both groups take."""
        return sum(tensor.nbytes for tensor in (*self._paged, *self._scales))

    @staticmethod
    def bytes_per_block(config: ModelConfig, block_tokens: int, dtype: torch.dtype) -> tuple[int, int]:
        """Return the bytes of one block over all layers of its group: (full, sliding)."""
        per_layer = 2 * block_tokens * config.num_kv_heads * head_bytes(config.head_dim, dtype)
        num_full = sum(kind == "full" for kind in config.layer_types)
        return per_layer * num_full, per_layer * (config.num_layers - num_full)
