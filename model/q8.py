"""Q8_0, GGUF's format of 8-bit weights: this file is its reference, not its fast path.

A block is 32 values along the last dimension in 34 bytes, 8.5 bits a value: an f16 scale, then 32 signed bytes. A value
is byte times scale. A matrix [N, 32n] in this format is a tensor [N, n, 34] u8, as a GGUF file holds it.
"""

import torch
from torch import Tensor

BLOCK_VALUES = 32
"""Values that share one scale."""
BLOCK_BYTES = 34
"""Bytes of a block, its scale included."""
SCALE_BYTES = 2
_LARGEST = 127
_ROWS_AT_ONCE = 4096
"""Rows whose values are in float32 at one time; so a vocabulary of 1 GB takes no 2 GB on the way."""


def quantize(values: Tensor) -> Tensor:
    """Return `values` [..., 32n] f32 or bf16 as blocks [..., n, 34] u8, rounded to nearest, halves away from zero.

    A value is off by at most half of its block's scale, which is a 127th of the block's largest, and by that scale's
    own rounding to f16. Raises ValueError if the last dimension is no multiple of 32.
    """
    if values.shape[-1] % BLOCK_VALUES:
        raise ValueError(f"rows of {values.shape[-1]} values cannot be held as Q8_0; wanted a multiple of 32")
    rows = values.reshape(-1, values.shape[-1])
    blocks = rows.new_empty((rows.shape[0], rows.shape[1] // BLOCK_VALUES, BLOCK_BYTES), dtype=torch.uint8)
    for part, to in zip(rows.split(_ROWS_AT_ONCE), blocks.split(_ROWS_AT_ONCE), strict=True):
        _quantize(part, to)
    return blocks.view(*values.shape[:-1], -1, BLOCK_BYTES)


def dequantize(blocks: Tensor) -> Tensor:
    """Return the values [..., 32n] f32 of blocks [..., n, 34] u8; exact."""
    codes, scales = split(blocks)
    return (codes.float() * scales[..., None]).flatten(-2)


def split(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Return codes [..., n, 32] int8, a view, and scales [..., n] f32 of blocks [..., n, 34] u8."""
    scales = blocks[..., :SCALE_BYTES].contiguous().view(torch.float16).squeeze(-1)
    return blocks[..., SCALE_BYTES:].view(torch.int8), scales.float()


def is_q8(matrix: Tensor) -> bool:
    """Say whether a matrix is held in this format: dense weights are bf16 or f32 otherwise."""
    return matrix.dtype == torch.uint8


def _quantize(rows: Tensor, to: Tensor) -> None:
    blocks = rows.float().unflatten(-1, (-1, BLOCK_VALUES))
    scales = blocks.abs().amax(dim=-1, keepdim=True) / _LARGEST
    scaled = blocks * torch.where(scales == 0, 0, 1 / scales)
    codes = torch.trunc(scaled + torch.copysign(torch.tensor(0.5), scaled)).to(torch.int8)
    to[..., :SCALE_BYTES] = scales.half().view(torch.uint8)
    to[..., SCALE_BYTES:] = codes.view(torch.uint8)
