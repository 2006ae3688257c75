"""A matrix in 8-bit blocks (Q8_0) times rows, without widening the matrix.

Each block of 32 inputs of a row is rounded to integers of -32767..32767 and one f32 step. A block's sum is an integer
below 2**28, exact in any order, rounded to f32 once; blocks are added in f32 in order, each product and each sum
rounded. So the native kernel and the torch twin have the same bits. Its error against float64 on the same weights is
2e-5 relative, a hundredth of bf16's own rounding: what is lost, the weights' 8 bits have lost. A block whose largest
input is below 2**-100 counts as zero; one that holds an infinity or a NaN makes its outputs NaN.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from model.kernels._q8_linear_native import pack_q8, q8_linear_native, unpack_q8
from model.kernels.native_library import native_library
from model.q8 import BLOCK_VALUES, split

_LARGEST_VALUE = 32767.0
_SMALLEST_BLOCK = 2.0**-100
_CHUNK_ELEMENTS = 2_097_152
"""Weight elements that the twin widens at a time; exact sums make the place of the cut irrelevant."""


@dataclass(frozen=True, slots=True)
class Q8Weight:
    """A weight [N, K] in 8-bit blocks, K a multiple of 32, laid out for the backend that will read it."""

    blocks: Tensor
    """[N, K / 32, 34] u8, or [ceil(N / 8), K / 32, 272] u8 where packed: 8 features side by side, padded with zeros."""
    num_features: int
    """N."""
    is_packed: bool

    @classmethod
    def of(cls, blocks: Tensor) -> "Q8Weight":
        """Return `blocks` [N, K / 32, 34] u8 as the backend of their device wants them; packed, it is a copy."""
        if native_library() is None or blocks.device.type != "cpu":
            return cls(blocks, blocks.shape[0], is_packed=False)
        return cls(pack_q8(blocks), blocks.shape[0], is_packed=True)

    def unpacked(self) -> Tensor:
        """Return the weight as blocks [N, K / 32, 34] u8."""
        return unpack_q8(self.blocks, self.num_features) if self.is_packed else self.blocks

    @property
    def nbytes(self) -> int:
        """Return the bytes it takes in memory."""
        return self.blocks.nbytes


def q8_linear(rows: Tensor, weight: Q8Weight, bias: Tensor | None = None) -> Tensor:
    """Return rows [T, K] times weight [N, K] transposed, plus bias [N], as [T, N] f32."""
    if not weight.is_packed:
        return q8_linear_torch(rows, weight, bias)
    out = q8_linear_native(rows, weight.blocks)[:, : weight.num_features]
    return out if bias is None else out + bias


def q8_linear_torch(rows: Tensor, weight: Q8Weight, bias: Tensor | None = None) -> Tensor:
    """Return what `q8_linear` does, bit for bit, in torch."""
    blocks = weight.unpacked()
    values, steps = _quantize(rows.float())
    out = torch.empty((rows.shape[0], weight.num_features), dtype=torch.float32, device=rows.device)
    chunk = max(1, _CHUNK_ELEMENTS // (blocks.shape[1] * BLOCK_VALUES))
    for first in range(0, weight.num_features, chunk):
        part = slice(first, first + chunk)
        out[:, part] = _sum_blocks(values, steps, blocks[part])
    return out if bias is None else out + bias


def _quantize(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return integers [K/32, T, 32] f64 and the step of each block [K/32, T, 1] f32."""
    blocks = rows.unflatten(1, (-1, BLOCK_VALUES)).transpose(0, 1)
    largest = blocks.abs().amax(-1, keepdim=True)
    is_zero = largest < _SMALLEST_BLOCK
    limit = torch.full_like(largest, _LARGEST_VALUE)
    values = (blocks * (limit / largest)).round().masked_fill(is_zero | ~largest.isfinite(), 0.0)
    steps = (largest / limit).masked_fill(is_zero, 0.0).masked_fill(~largest.isfinite(), torch.nan)
    return values.double(), steps


def _sum_blocks(values: Tensor, steps: Tensor, blocks: Tensor) -> Tensor:
    """Return [T, N]: for each block in order, its exact integer sum times scale and step, added up in f32."""
    codes, scales = split(blocks)
    by_block = codes.permute(1, 2, 0).double()
    total = torch.zeros((values.shape[1], blocks.shape[0]), dtype=torch.float32, device=values.device)
    for block in range(values.shape[0]):
        total += (values[block] @ by_block[block]).float() * (scales[:, block] * steps[block])
    return total
