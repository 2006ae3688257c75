"""Matrix times rows, so that a row's bits do not depend on the rows beside it.

Vendor matmuls choose their reduction by the number of rows. The native kernel sums every output in one fixed order;
the torch twin multiplies tiles of exactly `ROW_TILE` rows, padded with zeros, and splits the output features at fixed
places, so that the reduction over K is the same for one row and for a thousand (measured on MKL with one and two
threads; the tests repeat the measurement).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from model.kernels._linear_native import linear_native, pack_lanes
from model.kernels.native_library import native_library

ROW_TILE = 16
"""Rows in one matmul of the twin. Tails are padded, never multiplied in another shape."""
_CHUNK_ELEMENTS = 2_097_152
"""Weight elements that the twin converts to f32 at a time; decides where features are split, so part of its bits."""


@dataclass(frozen=True, slots=True)
class LinearWeight:
    """A weight [N, K] f32 or bf16, laid out for the backend that will read it."""

    values: Tensor
    """[N, K], or [ceil(N / 8), K, 8] where packed: eight output features side by side, padded with zeros."""
    num_features: int
    """N."""
    is_packed: bool

    @classmethod
    def of(cls, weight: Tensor) -> "LinearWeight":
        """Return `weight` [N, K] as the backend of its device wants it; packed, it is a copy."""
        if native_library() is None or weight.device.type != "cpu":
            return cls(weight, weight.shape[0], is_packed=False)
        return cls(pack_lanes(weight), weight.shape[0], is_packed=True)

    def unpacked(self) -> Tensor:
        """Return the weight as [N, K]."""
        if not self.is_packed:
            return self.values
        return self.values.transpose(1, 2).flatten(0, 1)[: self.num_features]

    @property
    def nbytes(self) -> int:
        """Return the bytes it takes in memory."""
        return self.values.nbytes


def linear(rows: Tensor, weight: LinearWeight, bias: Tensor | None = None) -> Tensor:
    """Return rows [T, K] times weight [N, K] transposed, plus bias [N], as [T, N] f32.

    The weight's values, not its dtype, decide the result.
    """
    if not weight.is_packed:
        return linear_torch(rows, weight, bias)
    out = linear_native(rows, weight.values)[:, : weight.num_features]
    return out if bias is None else out + bias


def linear_torch(rows: Tensor, weight: LinearWeight, bias: Tensor | None = None) -> Tensor:
    """Return what `linear` does, in torch."""
    padded = pad_rows(rows)
    out = torch.empty((padded.shape[0], weight.num_features), dtype=torch.float32, device=rows.device)
    _multiply_tiles(padded, weight.unpacked(), out)
    out = out[: rows.shape[0]]
    return out if bias is None else out + bias


def pad_rows(rows: Tensor) -> Tensor:
    """Return [ceil(T / ROW_TILE) * ROW_TILE, K] f32 with zero rows after the T given ones."""
    num_rows, width = rows.shape
    padded = rows.new_zeros((-(-num_rows // ROW_TILE) * ROW_TILE, width), dtype=torch.float32)
    padded[:num_rows] = rows
    return padded


def _multiply_tiles(padded: Tensor, weight: Tensor, out: Tensor) -> None:
    """Write padded [M, K] f32 times weight [N, K] transposed into out [M, N] f32; M is a multiple of ROW_TILE."""
    features, width = weight.shape
    chunk = max(1, _CHUNK_ELEMENTS // width)
    for first in range(0, features, chunk):
        part = weight[first : first + chunk].to(torch.float32).T
        for row in range(0, padded.shape[0], ROW_TILE):
            out[row : row + ROW_TILE, first : first + chunk] = padded[row : row + ROW_TILE] @ part
