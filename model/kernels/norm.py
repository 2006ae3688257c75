"""RMSNorm over the last dimension, reduced along a fixed tree."""

from torch import Tensor

from model.kernels.exact_math import tree_sum


def rms_norm_torch(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Return x / sqrt(mean(x^2) + eps) * weight as [T, H] f32, for x [T, H] and weight [H] of any float dtype.

    The weight multiplies in f32 and nothing is rounded in between (gpt_oss/torch/model.py, RMSNorm).
    """
    x = x.float()
    mean_square = tree_sum(x * x) / x.shape[-1]
    inverse = (mean_square + eps).sqrt_().reciprocal_()
    return x * inverse[:, None] * weight.float()


rms_norm = rms_norm_torch
