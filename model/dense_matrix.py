"""Dense matrices as they lie in memory: values, or 8-bit blocks; whoever multiplies need not know."""

from typing import TypeAlias

from torch import Tensor

from model.kernels.linear import LinearWeight, linear
from model.kernels.q8_linear import Q8Weight, q8_linear
from model.q8 import dequantize, is_q8

DenseMatrix: TypeAlias = LinearWeight | Q8Weight


def dense_matrix(weight: Tensor) -> DenseMatrix:
    """Return weight [N, K] f32 or bf16, or in blocks [N, K / 32, 34] u8, laid out for the kernels of its device."""
    return Q8Weight.of(weight) if is_q8(weight) else LinearWeight.of(weight)


def multiply(rows: Tensor, matrix: DenseMatrix, bias: Tensor | None = None) -> Tensor:
    """Return rows [T, K] times the matrix [N, K] transposed, plus bias [N], as [T, N] f32."""
    if isinstance(matrix, Q8Weight):
        return q8_linear(rows, matrix, bias)
    return linear(rows, matrix, bias)


def take_rows(weight: Tensor, indices: Tensor) -> Tensor:
    """Return rows `indices` [T] of weight [N, K], or of blocks [N, K / 32, 34] u8, as [T, K] values."""
    rows = weight[indices]
    return dequantize(rows) if is_q8(rows) else rows
