"""The clamped SwiGLU of gpt-oss over interleaved gate and linear features."""

from torch import Tensor

from model.kernels.exact_math import exact_sigmoid


def swiglu_torch(features: Tensor, limit: float, alpha: float) -> Tensor:
    """Return [P, I] f32 from features [P, 2I] f32: even columns gate (clamped above), odd ones linear (both sides).

    gate * sigmoid(alpha * gate) * (linear + 1) (gpt_oss/torch/model.py, swiglu).
    """
    gate = features[:, 0::2].clamp(max=limit)
    linear = features[:, 1::2].clamp(-limit, limit)
    return gate * exact_sigmoid(gate * alpha) * (linear + 1.0)


swiglu = swiglu_torch
