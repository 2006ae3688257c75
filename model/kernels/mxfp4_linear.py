"""MXFP4 matrix times rows, without dequantising the matrix.

The native kernel rounds each row's inputs to 15 bits per block of 32 (one scale a block) and multiplies in integers,
whose sums are exact in any order; blocks are added in f32 in order. Its error against float64 is 4e-5 relative, a
fortieth of bf16's own rounding, and its bits do not depend on the instruction set. The torch twin dequantises and
multiplies in f32.
"""

from dataclasses import dataclass

from torch import Tensor

from model.kernels._mxfp4_experts_native import mxfp4_experts_native
from model.kernels._mxfp4_layout import pack_blocks, packed_shape, unpack_blocks
from model.kernels.linear import LinearWeight, linear_torch
from model.mxfp4 import Mxfp4Tensor, dequantize

__all__ = ["LAYOUT_VERSION", "Mxfp4Weight", "mxfp4_linear", "mxfp4_linear_torch", "packed_shape"]

LAYOUT_VERSION = 1
"""Raised whenever the packed layout changes: packed experts are kept on disk."""


@dataclass(frozen=True, slots=True)
class Mxfp4Weight:
    """An MXFP4 weight [N, K], N a multiple of 8 and K of 32, laid out for the native kernel."""

    packed: Tensor
    """[N / 8, K / 32, 136] u8: 128 bytes of codes and the 8 scales of 8 output features by 32 inputs."""

    @classmethod
    def of(cls, weight: Mxfp4Tensor) -> "Mxfp4Weight":
        """Return a packed copy of `weight`; needs the native library."""
        return cls(pack_blocks(weight.blocks, weight.scales))

    def fill(self, weight: Mxfp4Tensor) -> None:
        """Pack `weight` into this one's memory."""
        pack_blocks(weight.blocks, weight.scales, self.packed)

    def unpacked(self) -> Mxfp4Tensor:
        """Return the weight in the checkpoint's layout."""
        return Mxfp4Tensor(*unpack_blocks(self.packed))

    @property
    def nbytes(self) -> int:
        """Return the bytes it takes in memory."""
        return self.packed.nbytes


def mxfp4_linear(rows: Tensor, weight: Mxfp4Weight, bias: Tensor) -> Tensor:
    """Return rows [T, K] times weight [N, K] transposed, plus bias [N], as [T, N] f32."""
    return mxfp4_experts_native("em_mxfp4", rows, [weight.packed], [bias.float()], [0, len(rows)])


def mxfp4_linear_torch(rows: Tensor, weight: Mxfp4Weight, bias: Tensor) -> Tensor:
    """Return what `mxfp4_linear` does up to its rounding of the inputs, in torch."""
    dense = dequantize(weight.unpacked(), rows.float().dtype)
    return linear_torch(rows, LinearWeight(dense, dense.shape[0], is_packed=False), bias)
