"""RMSNorm over the last dimension, reduced along a fixed tree."""

import torch
from torch import Tensor

from model.kernels.constants import constants
from model.kernels.exact_math import tree_sum
from model.kernels.native_library import native_library
from model.kernels.threads import num_threads


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Return x / sqrt(mean(x^2) + eps) * weight as [T, H] f32, for x [T, H] and weight [H] of any float dtype.

    The weight multiplies in f32 and nothing is rounded in between (gpt_oss/torch/model.py, RMSNorm).
    """
    library = native_library()
    if library is None or x.device.type != "cpu":
        return rms_norm_torch(x, weight, eps)
    x = x.float().contiguous()
    out = torch.empty_like(x)
    library.call("em_rms_norm", x, weight.float().contiguous(), constants(eps), *x.shape, out, threads=num_threads())
    return out


def rms_norm_torch(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Return what `rms_norm` does, with the same bits, in torch."""
    x = x.float()
    mean_square = tree_sum(x * x) / x.shape[-1]
    # A vendor's f32 root may miss by a unit in the last place (MKL's does, for one number in five). The f64 root
    # rounded to f32 is the correctly rounded one: no root of an f32 lies so near the middle between two.
    inverse = (mean_square + eps).double().sqrt_().float().reciprocal_()
    return x * inverse[:, None] * weight.float()
