"""MXFP4 matrix times rows whose inputs are rounded to eight bits: the matmul of the `int8` mode.

Each block of 32 inputs is rounded to integers of -127..127 and one f32 scale, as llama.cpp's Q8 is (with an f16 scale).
A block's sum is an integer below 2**24, exact in any order; blocks are added in f32 in order, each product and each sum
rounded. So the native kernel and the torch twin have the same bits. The price is accuracy: against float64 some 5e-3
of the output on rows of normal numbers, a hundred times the error of `mxfp4_linear`. A block whose largest input is
below 2**-116 counts as zero; one that holds an infinity or a NaN makes its outputs NaN.
"""

import torch
from torch import Tensor

from model.kernels._mxfp4_experts_native import mxfp4_experts_native
from model.kernels.mxfp4_linear import Mxfp4Weight
from model.mxfp4 import BLOCK_VALUES, MAGNITUDES, Mxfp4Tensor

_LARGEST_VALUE = 127.0
_SMALLEST_BLOCK = 2.0**-116
_CHUNK_ELEMENTS = 2_097_152
"""Weight elements that the twin decodes at a time; exact sums make the place of the cut irrelevant."""
_DOUBLED = torch.tensor([2 * sign * magnitude for sign in (1, -1) for magnitude in MAGNITUDES])
"""[16] f32: twice the value of each code."""


def mxfp4_linear_int8(rows: Tensor, weight: Mxfp4Weight | Mxfp4Tensor, bias: Tensor) -> Tensor:
    """Return rows [T, K] times weight [N, K] transposed, plus bias [N], as [T, N] f32.

    A packed weight goes to the native kernel, one in the checkpoint's layout to the twin.
    """
    if isinstance(weight, Mxfp4Weight):
        return mxfp4_experts_native("em_mxfp4_int8", rows, [weight.packed], [bias.float()], [0, len(rows)])
    return mxfp4_linear_int8_torch(rows, weight, bias)


def mxfp4_linear_int8_torch(rows: Tensor, weight: Mxfp4Weight | Mxfp4Tensor, bias: Tensor) -> Tensor:
    """Return what `mxfp4_linear_int8` does, bit for bit, in torch."""
    plain = weight.unpacked() if isinstance(weight, Mxfp4Weight) else weight
    features, width = plain.shape
    values, half_steps = _quantize(rows.float())
    out = torch.empty((rows.shape[0], features), dtype=torch.float32, device=rows.device)
    chunk = max(1, _CHUNK_ELEMENTS // width)
    for first in range(0, features, chunk):
        part = slice(first, first + chunk)
        out[:, part] = _sum_blocks(values, half_steps, Mxfp4Tensor(plain.blocks[part], plain.scales[part]))
    return out + bias


def _quantize(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return integers [K/32, T, 32] f32 and half the step of each block [K/32, T, 1] f32."""
    blocks = rows.unflatten(1, (-1, BLOCK_VALUES)).transpose(0, 1)
    largest = blocks.abs().amax(-1, keepdim=True)
    is_zero = largest < _SMALLEST_BLOCK
    limit = torch.full_like(largest, _LARGEST_VALUE)
    values = (blocks * (limit / largest)).round().masked_fill(is_zero | ~largest.isfinite(), 0.0)
    half_steps = (largest / limit * 0.5).masked_fill(is_zero, 0.0).masked_fill(~largest.isfinite(), torch.nan)
    return values, half_steps


def _sum_blocks(values: Tensor, half_steps: Tensor, weight: Mxfp4Tensor) -> Tensor:
    """Return [T, N]: for each block in order, its exact integer sums times both scales, added up in f32."""
    codes = torch.stack((weight.blocks & 15, weight.blocks >> 4), dim=-1).flatten(2).long()
    doubled = _DOUBLED.to(codes.device)[codes].permute(1, 2, 0)
    scales = (weight.scales.to(torch.int32) << 23).view(torch.float32).T
    total = torch.zeros((values.shape[1], weight.shape[0]), dtype=torch.float32, device=values.device)
    for block in range(values.shape[0]):
        total += (values[block] @ doubled[block]) * (scales[block] * half_steps[block])
    return total
