"""Paged attention with sinks and a sliding window, row-independent.

Keys are visited in splits of `SPLIT_TOKENS` positions that start at fixed absolute positions and are merged in
ascending order with an online softmax that starts from the sink, so the sink counts once. A row's bits depend on its
query and on its own sequence's stored keys and values, never on where a chunk began or who shares the step.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model.batch import ForwardBatch, IntArray
from model.kernels.exact_math import exact_exp, tree_sum
from model.kernels.linear import ROW_TILE

BoolArray = npt.NDArray[np.bool_]

SPLIT_TOKENS = 128
"""Keys merged at a time; part of the bits. The KV block size must divide it."""


@dataclass(frozen=True, slots=True)
class SplitPlan:
    """The query tiles that see one split of keys."""

    tiles: Tensor | None
    """[n] tile indices, or None when all tiles see it."""
    blocks: Tensor
    """[n, SPLIT_TOKENS / block_tokens] KV blocks of the split for each tile; 0 where there is none."""
    is_used: Tensor
    """[n, SPLIT_TOKENS] bool: some lane attends to the key, so it is stored and its block has not been freed."""
    is_visible: Tensor
    """[n, lanes, SPLIT_TOKENS] bool: the lane's row may attend to the key; padding lanes see nothing."""


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    """How one step's rows attend in the layers of one kind; made once a step, shared by those layers.

    Rows of a sequence are cut into tiles of `tile_rows` rows, so that rows times query heads per KV head fill a
    matmul tile.
    """

    tile_rows: Tensor
    """[N, tile_rows] row indices into T; T itself, a row of zeros, pads the last tile of a sequence."""
    row_slots: Tensor
    """[T] the place of each row in the flattened tiles."""
    splits: tuple[SplitPlan, ...]


@dataclass(frozen=True, slots=True)
class PlanShape:
    """What an attention plan needs to know beside the batch."""

    heads_per_kv_head: int
    block_tokens: int
    window: int | None
    """Keys a row may see, itself included; None for full attention."""
    device: str

    @property
    def tile_rows(self) -> int:
        """Return how many query rows share a matmul tile: one lane a row and query head."""
        return max(1, ROW_TILE // self.heads_per_kv_head)

    @property
    def padding_lanes(self) -> int:
        """Return the lanes that fill a tile up to a multiple of ROW_TILE."""
        return -(self.tile_rows * self.heads_per_kv_head) % ROW_TILE


def plan_attention(batch: ForwardBatch, block_table: IntArray, shape: PlanShape) -> AttentionPlan:
    """Return the plan of `batch` for one kind of layers, whose blocks lie in `block_table` [S, max_blocks]."""
    tiles, owners = _tile_rows(batch, shape.tile_rows)
    padded_positions = np.append(batch.positions, -1)
    positions = padded_positions[tiles]
    splits = tuple(_split_plans(positions, block_table[owners], shape))
    flat = tiles.reshape(-1)
    row_slots = np.empty(batch.num_tokens, dtype=np.int64)
    is_row = flat < batch.num_tokens
    row_slots[flat[is_row]] = np.nonzero(is_row)[0]
    return AttentionPlan(_to_device(tiles, shape.device), _to_device(row_slots, shape.device), splits)


def _tile_rows(batch: ForwardBatch, tile_rows: int) -> tuple[IntArray, IntArray]:
    """Return the rows of each tile [N, tile_rows], T where padded, and the sequence that owns each tile [N]."""
    num_tiles = -(-batch.num_rows // tile_rows)
    owners = np.repeat(np.arange(batch.num_sequences), num_tiles)
    first_tile = np.cumsum(num_tiles) - num_tiles
    first_row = np.cumsum(batch.num_rows) - batch.num_rows
    offsets = (np.arange(owners.size) - first_tile[owners]) * tile_rows
    within = offsets[:, None] + np.arange(tile_rows)
    rows = first_row[owners][:, None] + within
    return np.where(within < batch.num_rows[owners][:, None], rows, batch.num_tokens), owners


def _split_plans(positions: IntArray, blocks: IntArray, shape: PlanShape) -> Iterator[SplitPlan]:
    last_key = positions.max(axis=1)
    first_key = np.zeros_like(last_key) if shape.window is None else positions[:, 0] - shape.window + 1
    first_split = np.maximum(first_key, 0) // SPLIT_TOKENS
    last_split = last_key // SPLIT_TOKENS
    per_split = SPLIT_TOKENS // shape.block_tokens
    for split in range(int(first_split.min(initial=0)), int(last_split.max(initial=-1)) + 1):
        active = np.nonzero((first_split <= split) & (split <= last_split))[0]
        if active.size == 0:
            continue
        keys = split * SPLIT_TOKENS + np.arange(SPLIT_TOKENS)
        is_visible: BoolArray = keys <= positions[active][:, :, None]
        if shape.window is not None:
            is_visible &= keys > positions[active][:, :, None] - shape.window
        yield SplitPlan(
            tiles=None if active.size == positions.shape[0] else _to_device(active, shape.device),
            blocks=_to_device(_columns(blocks[active], split * per_split, per_split), shape.device),
            is_used=_to_device(np.asarray(is_visible.any(axis=1)), shape.device),
            is_visible=_to_device(_by_lane(is_visible, shape), shape.device),
        )


def _columns(table: IntArray, first: int, count: int) -> IntArray:
    """Return `count` columns of the block table from `first` on, with zeros beyond its edge."""
    part = table[:, first : first + count]
    return np.pad(part, ((0, 0), (0, count - part.shape[1])))


def _by_lane(is_visible: BoolArray, shape: PlanShape) -> BoolArray:
    """Return [n, lanes, SPLIT_TOKENS] from [n, tile_rows, SPLIT_TOKENS]: the row's mask for each of its heads."""
    by_head = np.repeat(is_visible, shape.heads_per_kv_head, axis=1)
    return np.pad(by_head, ((0, 0), (0, shape.padding_lanes), (0, 0)))


def _to_device(array: npt.NDArray[Any], device: str) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(device)


def paged_attention_torch(
    queries: Tensor, keys: Tensor, values: Tensor, plan: AttentionPlan, sinks: Tensor, scale: float
) -> Tensor:
    """Return the attention output [T, Q, D] f32.

    queries [T, Q, D] f32; keys and values [B, block_tokens, G, D] in the KV dtype, with this step's rows already
    stored; sinks [Q]: one logit a head that takes part in the softmax and adds no value
    (gpt_oss/torch/model.py, sdpa).
    """
    num_rows, num_heads, head_dim = queries.shape
    num_kv_heads = keys.shape[2]
    tiled = _tile_queries(queries, plan, num_kv_heads)
    num_tiles, _, lanes, _ = tiled.shape
    peak = _tile_sinks(sinks, plan, num_kv_heads, lanes)
    total = torch.ones_like(peak)
    output = torch.zeros_like(tiled)
    for split in plan.splits:
        if split.tiles is None:
            peak, total, output = _merge(tiled, keys, values, split, (peak, total, output), scale)
            continue
        state = peak[split.tiles], total[split.tiles], output[split.tiles]
        merged = _merge(tiled[split.tiles], keys, values, split, state, scale)
        peak[split.tiles], total[split.tiles], output[split.tiles] = merged
    output = output / total[..., None]
    repeats = num_heads // num_kv_heads
    by_row = output[:, :, : plan.tile_rows.shape[1] * repeats].unflatten(2, (-1, repeats))
    by_row = by_row.permute(0, 2, 1, 3, 4).reshape(-1, num_heads, head_dim)
    assert by_row.shape[0] == num_tiles * plan.tile_rows.shape[1], (by_row.shape, plan.tile_rows.shape)
    return by_row[plan.row_slots][:num_rows]


paged_attention = paged_attention_torch


def _tile_queries(queries: Tensor, plan: AttentionPlan, num_kv_heads: int) -> Tensor:
    """Return [N, G, lanes, D]: the query heads of a tile's rows under their KV head, zero-padded to full lanes."""
    padded = torch.cat((queries, queries.new_zeros((1, *queries.shape[1:]))))
    tiles = padded[plan.tile_rows]
    grouped = tiles.unflatten(2, (num_kv_heads, -1)).permute(0, 2, 1, 3, 4).flatten(2, 3)
    return _pad_lanes(grouped)


def _tile_sinks(sinks: Tensor, plan: AttentionPlan, num_kv_heads: int, lanes: int) -> Tensor:
    """Return the sink of every lane as [N, G, lanes] f32: the softmax's first term."""
    num_tiles, tile_rows = plan.tile_rows.shape
    grouped = sinks.float().view(1, num_kv_heads, 1, -1)
    repeated = grouped.expand(num_tiles, -1, tile_rows, -1).flatten(2, 3)
    padded = repeated.new_zeros((num_tiles, num_kv_heads, lanes))
    padded[:, :, : repeated.shape[2]] = repeated
    return padded


def _pad_lanes(grouped: Tensor) -> Tensor:
    missing = -grouped.shape[2] % ROW_TILE
    return torch.nn.functional.pad(grouped, (0, 0, 0, missing)) if missing else grouped.contiguous()


_State = tuple[Tensor, Tensor, Tensor]


def _merge(queries: Tensor, keys: Tensor, values: Tensor, split: SplitPlan, state: _State, scale: float) -> _State:
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


def _gather(paged: Tensor, blocks: Tensor) -> Tensor:
    """Return [n, G, SPLIT_TOKENS, D] f32 of the split's blocks [n, blocks] from [B, block_tokens, G, D]."""
    return paged[blocks].flatten(1, 2).permute(0, 2, 1, 3).float()
