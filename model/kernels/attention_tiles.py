"""The torch twin's view of a step's attention: rows cut into matmul tiles, keys into splits, masks for both."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model.batch import ForwardBatch, IntArray
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
class TilePlan:
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
class TileShape:
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


def plan_tiles(batch: ForwardBatch, block_table: IntArray, shape: TileShape) -> TilePlan:
    """Return the plan of `batch` for one kind of layers, whose blocks lie in `block_table` [S, max_blocks]."""
    tiles, owners = _tile_rows(batch, shape.tile_rows)
    padded_positions = np.append(batch.positions, -1)
    positions = padded_positions[tiles]
    splits = tuple(_split_plans(positions, block_table[owners], shape))
    flat = tiles.reshape(-1)
    row_slots = np.empty(batch.num_tokens, dtype=np.int64)
    is_row = flat < batch.num_tokens
    row_slots[flat[is_row]] = np.nonzero(is_row)[0]
    return TilePlan(_to_device(tiles, shape.device), _to_device(row_slots, shape.device), splits)


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


def _split_plans(positions: IntArray, blocks: IntArray, shape: TileShape) -> Iterator[SplitPlan]:
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


def _by_lane(is_visible: BoolArray, shape: TileShape) -> BoolArray:
    """Return [n, lanes, SPLIT_TOKENS] from [n, tile_rows, SPLIT_TOKENS]: the row's mask for each of its heads."""
    by_head = np.repeat(is_visible, shape.heads_per_kv_head, axis=1)
    return np.pad(by_head, ((0, 0), (0, shape.padding_lanes), (0, 0)))


def _to_device(array: npt.NDArray[Any], device: str) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(device)
