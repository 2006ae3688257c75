"""Matrix times rows, so that a row's bits do not depend on the rows beside it.

Vendor matmuls choose their reduction by the number of rows. The torch twin therefore multiplies tiles of exactly
`ROW_TILE` rows, padded with zeros, and splits the output features at fixed places; the reduction over K is then the
same for one row and for a thousand (measured on MKL with one and two threads; the tests repeat the measurement).
"""

import torch
from torch import Tensor

ROW_TILE = 16
"""Rows in one matmul. Tails are padded, never multiplied in another shape."""
_CHUNK_ELEMENTS = 2_097_152
"""Weight elements converted to f32 at a time; decides where output features are split, so it is part of the bits."""


def pad_rows(rows: Tensor) -> Tensor:
    """Return [ceil(T / ROW_TILE) * ROW_TILE, K] f32 with zero rows after the T given ones."""
    num_rows, width = rows.shape
    padded = rows.new_zeros((-(-num_rows // ROW_TILE) * ROW_TILE, width), dtype=torch.float32)
    padded[:num_rows] = rows
    return padded


def linear_torch(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return rows [T, K] times weight [N, K] transposed, plus bias [N], as [T, N] f32.

    `weight` is f32 or bf16; its values, not its dtype, decide the result.
    """
    padded = pad_rows(rows)
    out = torch.empty((padded.shape[0], weight.shape[0]), dtype=torch.float32, device=rows.device)
    multiply_tiles(padded, weight, out)
    out = out[: rows.shape[0]]
    return out if bias is None else out.add_(bias)


def multiply_tiles(padded: Tensor, weight: Tensor, out: Tensor) -> None:
    """Write padded [M, K] f32 times weight [N, K] transposed into out [M, N] f32; M is a multiple of ROW_TILE."""
    features, width = weight.shape
    chunk = max(1, _CHUNK_ELEMENTS // width)
    for first in range(0, features, chunk):
        part = weight[first : first + chunk].to(torch.float32).T
        for row in range(0, padded.shape[0], ROW_TILE):
            out[row : row + ROW_TILE, first : first + chunk] = padded[row : row + ROW_TILE] @ part


linear = linear_torch
