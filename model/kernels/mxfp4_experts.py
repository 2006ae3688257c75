"""MXFP4 matrices of several experts times their rows, in one call of the native kernels.

Each expert's rows have the bits that `mxfp4_linear` or `mxfp4_linear_int8` gives them alone; only the calls are fewer.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from model.kernels._mxfp4_experts_native import mxfp4_experts_native
from model.kernels.mxfp4_linear import Mxfp4Weight, mxfp4_linear_torch
from model.kernels.mxfp4_linear_int8 import mxfp4_linear_int8_torch


def mxfp4_experts(
    rows: Tensor, weights: Sequence[Mxfp4Weight], biases: Sequence[Tensor], bounds: Sequence[int], is_int8: bool
) -> Tensor:
    """Return [T, N] f32: rows [T, K] from `bounds[e]` to `bounds[e + 1]` times weight e [N, K] transposed, plus bias e.

    With `is_int8` the rows are rounded to eight bits.
    """
    kernel = "em_mxfp4_int8" if is_int8 else "em_mxfp4"
    return mxfp4_experts_native(kernel, rows, [weight.packed for weight in weights], biases, bounds)


def mxfp4_experts_torch(
    rows: Tensor, weights: Sequence[Mxfp4Weight], biases: Sequence[Tensor], bounds: Sequence[int], is_int8: bool
) -> Tensor:
    """Return what `mxfp4_experts` does, in torch: with `is_int8` bit for bit, else up to its rounding of the rows."""
    one = mxfp4_linear_int8_torch if is_int8 else mxfp4_linear_torch
    parts = zip(pairwise(bounds), weights, biases, strict=True)
    return torch.cat([one(rows[slice(*ends)], weight, bias) for ends, weight, bias in parts])
