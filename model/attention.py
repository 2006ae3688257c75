"""The attention half of a layer: norm, qkv, rotary, store, paged attention, out."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from model.batch import ForwardBatch, IntArray
from model.checkpoint.weights import AttentionWeights
from model.config import ModelConfig
from model.dense_matrix import dense_matrix, multiply
from model.kernels.attention import AttentionPlan, paged_attention
from model.kernels.attention_tiles import TileShape
from model.kernels.kv_store import kv_store
from model.kernels.norm import rms_norm
from model.kernels.rotary import RotaryTable, rotate
from model.kv_cache import KVCache

if TYPE_CHECKING:
    from model.fused_layer import NativeStep


@dataclass(frozen=True, slots=True)
class StepTensors:
    """What every attention layer of one step shares, on the device."""

    cos: Tensor
    sin: Tensor
    """[T, 1, D/2] of the rows' positions."""
    plans: dict[str, AttentionPlan]
    slots: dict[str, Tensor]
    """[T] where each row's key and value go, by layer kind."""
    native: dict[str, "NativeStep"] = field(default_factory=dict[str, "NativeStep"])
    """The same for the kernel that takes a layer at once, made for the first layer of each kind."""


def prepare_step(config: ModelConfig, batch: ForwardBatch, kv_cache: KVCache, rotary: RotaryTable) -> StepTensors:
    """Return the shared tensors of a step: plans and slots for both kinds of layers."""
    device, block_tokens = kv_cache.device, kv_cache.shape.block_tokens
    tables = {"full": batch.block_tables.full, "sliding": batch.block_tables.sliding}
    windows = {"full": None, "sliding": config.sliding_window}
    plans, slots = {}, {}
    for kind in sorted(set(config.layer_types)):
        shape = TileShape(config.num_heads // config.num_kv_heads, block_tokens, windows[kind], device)
        plans[kind] = AttentionPlan(batch, tables[kind], shape)
        slots[kind] = torch.from_numpy(_row_slots(batch, tables[kind], block_tokens)).to(device)
    cos, sin = rotary.rows(torch.from_numpy(batch.positions).to(device))
    return StepTensors(cos, sin, plans, slots)


def _row_slots(batch: ForwardBatch, table: IntArray, block_tokens: int) -> IntArray:
    owners = np.repeat(np.arange(batch.num_sequences), batch.num_rows)
    blocks = table[owners, batch.positions // block_tokens]
    assert blocks.min(initial=1) > 0, f"a row of {batch.num_tokens} has no block to store into"
    return blocks * block_tokens + batch.positions % block_tokens


class Attention:
    """One layer's attention over the paged cache."""

    def __init__(self, config: ModelConfig, layer: int, weights: AttentionWeights) -> None:
        """Hold `weights` on the device they are on, the matrices laid out for its kernels."""
        self._config = config
        self._layer = layer
        self.kind = config.layer_types[layer]
        self.norm = weights.norm
        self.qkv = dense_matrix(weights.qkv_weight), weights.qkv_bias
        self.out = dense_matrix(weights.out_weight), weights.out_bias
        self.sinks = weights.sinks

    def forward(self, x: Tensor, step: StepTensors, kv_cache: KVCache) -> Tensor:
        """Return the attention output [T, H] f32 for the residual x [T, H]; stores this step's keys and values."""
        config = self._config
        hidden = rms_norm(x, self.norm, config.norm_eps)
        heads = multiply(hidden, *self.qkv).unflatten(1, (-1, config.head_dim))
        queries, new_keys, new_values = heads.split((config.num_heads, config.num_kv_heads, config.num_kv_heads), dim=1)
        keys, values = kv_cache.layer(self._layer)
        kv_store(rotate(new_keys, step.cos, step.sin), keys, step.slots[self.kind])
        kv_store(new_values, values, step.slots[self.kind])
        attended = paged_attention(
            rotate(queries, step.cos, step.sin),
            keys,
            values,
            step.plans[self.kind],
            self.sinks,
            config.head_dim**-0.5,
        )
        return multiply(attended.flatten(1), *self.out)
