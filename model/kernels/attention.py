"""Paged attention with sinks and a sliding window, row-independent.

Keys are visited in splits of `SPLIT_TOKENS` positions that start at fixed absolute positions and are merged in
ascending order with an online softmax that starts from the sink, so the sink counts once. A row's bits depend on its
query and on its own sequence's stored keys and values, never on where a chunk began or who shares the step.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from model.batch import ForwardBatch, IntArray
from model.kernels._attention_native import RowPlan, can_attend, paged_attention_native
from model.kernels.attention_tiles import SPLIT_TOKENS, SplitPlan, TilePlan, TileShape, plan_tiles
from model.kernels.exact_math import exact_exp, tree_sum
from model.kernels.int8_rows import Int8Rows, Paged
from model.kernels.linear import ROW_TILE


@dataclass(frozen=True)
class AttentionPlan:
    """How one step's rows attend in the layers of one kind; made once a step, shared by those layers."""

    batch: ForwardBatch
    block_table: IntArray
    """[S, max_blocks] the blocks of the layers' group."""
    shape: TileShape

    @cached_property
    def tiles(self) -> TilePlan:
        """Return the rows cut into matmul tiles, for the torch twin."""
        return plan_tiles(self.batch, self.block_table, self.shape)

    @cached_property
    def rows(self) -> RowPlan:
        """Return each row's place, for the native kernel."""
        owners = np.repeat(np.arange(self.batch.num_sequences), self.batch.num_rows)
        arrays = (self.batch.positions, owners, self.block_table)
        positions, owners, table = (torch.from_numpy(np.ascontiguousarray(each, dtype=np.int64)) for each in arrays)
        return RowPlan(positions, owners, table, self.shape.window or 0, SPLIT_TOKENS)


def paged_attention(
    queries: Tensor, keys: Paged, values: Paged, plan: AttentionPlan, sinks: Tensor, scale: float
) -> Tensor:
    """Return the attention output [T, Q, D] f32.

    queries [T, Q, D] f32; keys and values [B, block_tokens, G, D] as the cache has them, with this step's rows
    already stored; sinks [Q]: one logit a head that takes part in the softmax and adds no value
    (gpt_oss/torch/model.py, sdpa).
    """
    if can_attend(queries, keys):
        return paged_attention_native(queries, keys, values, plan.rows, sinks, scale)
    return paged_attention_torch(queries, keys, values, plan, sinks, scale)


def paged_attention_torch(
    queries: Tensor, keys: Paged, values: Paged, plan: AttentionPlan, sinks: Tensor, scale: float
) -> Tensor:
    """Return what `paged_attention` does, in torch."""
    num_rows, num_heads, head_dim = queries.shape
    num_kv_heads = keys.shape[2]
    tiles = plan.tiles
    tiled = _tile_queries(queries, tiles, num_kv_heads)
    num_tiles, _, lanes, _ = tiled.shape
    peak = _tile_sinks(sinks, tiles, num_kv_heads, lanes)
    total = torch.ones_like(peak)
    output = torch.zeros_like(tiled)
    for split in tiles.splits:
        if split.tiles is None:
            peak, total, output = _merge(tiled, keys, values, split, (peak, total, output), scale)
            continue
        state = peak[split.tiles], total[split.tiles], output[split.tiles]
        merged = _merge(tiled[split.tiles], keys, values, split, state, scale)
        peak[split.tiles], total[split.tiles], output[split.tiles] = merged
    output = output / total[..., None]
    repeats = num_heads // num_kv_heads
    by_row = output[:, :, : tiles.tile_rows.shape[1] * repeats].unflatten(2, (-1, repeats))
    by_row = by_row.permute(0, 2, 1, 3, 4).reshape(-1, num_heads, head_dim)
    assert by_row.shape[0] == num_tiles * tiles.tile_rows.shape[1], (by_row.shape, tiles.tile_rows.shape)
    return by_row[tiles.row_slots][:num_rows]


def _tile_queries(queries: Tensor, tiles: TilePlan, num_kv_heads: int) -> Tensor:
    """Return [N, G, lanes, D]: the query heads of a tile's rows under their KV head, zero-padded to full lanes."""
    padded = torch.cat((queries, queries.new_zeros((1, *queries.shape[1:]))))
    grouped = padded[tiles.tile_rows].unflatten(2, (num_kv_heads, -1)).permute(0, 2, 1, 3, 4).flatten(2, 3)
    return _pad_lanes(grouped)


def _tile_sinks(sinks: Tensor, tiles: TilePlan, num_kv_heads: int, lanes: int) -> Tensor:
    """Return the sink of every lane as [N, G, lanes] f32: the softmax's first term."""
    num_tiles, tile_rows = tiles.tile_rows.shape
    grouped = sinks.float().view(1, num_kv_heads, 1, -1)
    repeated = grouped.expand(num_tiles, -1, tile_rows, -1).flatten(2, 3)
    padded = repeated.new_zeros((num_tiles, num_kv_heads, lanes))
    padded[:, :, : repeated.shape[2]] = repeated
    return padded


def _pad_lanes(grouped: Tensor) -> Tensor:
    missing = -grouped.shape[2] % ROW_TILE
    return torch.nn.functional.pad(grouped, (0, 0, 0, missing)) if missing else grouped.contiguous()


_State = tuple[Tensor, Tensor, Tensor]


def _merge(queries: Tensor, keys: Paged, values: Paged, split: SplitPlan, state: _State, scale: float) -> _State:
    """Return peak, total and output after the split: [n, G, lanes], [n, G, lanes], [n, G, lanes, D].

    A lane that sees nothing of the split keeps its state bit for bit: its weights are exact zeros.
    """
    peak, total, output = state
    scores = torch.matmul(queries, _gather(keys, split.blocks).transpose(2, 3)) * scale
    scores = scores.masked_fill(~split.is_visible[:, None], float("-inf"))
    new_peak = torch.maximum(peak, scores.amax(dim=-1))
    weights = exact_exp(scores - new_peak[..., None])
    keep = exact_exp(peak - new_peak)
    # What lies where nobody looks may be anything, NaN included, and 0 * NaN is not 0.
    stored = _gather(values, split.blocks).masked_fill(~split.is_used[:, None, :, None], 0.0)
    new_output = output * keep[..., None] + torch.matmul(weights, stored)
    return new_peak, total * keep + tree_sum(weights), new_output


def _gather(paged: Paged, blocks: Tensor) -> Tensor:
    """Return [n, G, SPLIT_TOKENS, D] f32 of the split's blocks [n, blocks] from [B, block_tokens, G, D]."""
    if isinstance(paged, Int8Rows):
        rows = Int8Rows(paged.stored[blocks], paged.scales[blocks]).dequantize()
    else:
        rows = paged[blocks]
    return rows.flatten(1, 2).permute(0, 2, 1, 3).float()
