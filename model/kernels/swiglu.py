"""The clamped SwiGLU of gpt-oss over interleaved gate and linear features."""

import torch
from torch import Tensor

from model.kernels.constants import constants
from model.kernels.exact_math import exact_sigmoid
from model.kernels.native_library import native_library
from model.kernels.threads import num_threads


def swiglu(features: Tensor, limit: float, alpha: float) -> Tensor:
    """Return [P, I] f32 from features [P, 2I] f32: even columns gate (clamped above), odd ones linear (both sides).

    gate * sigmoid(alpha * gate) * (linear + 1) (gpt_oss/torch/model.py, swiglu).
    """
    library = native_library()
    if library is None or features.device.type != "cpu":
        return swiglu_torch(features, limit, alpha)
    num_rows, width = features.shape
    out = torch.empty((num_rows, width // 2), dtype=torch.float32)
    sizes = num_rows, width // 2
    library.call("em_swiglu", features.contiguous(), constants(limit, alpha), *sizes, out, threads=num_threads())
    return out


def swiglu_torch(features: Tensor, limit: float, alpha: float) -> Tensor:
    """Return what `swiglu` does, with the same bits, in torch."""
    gate = features[:, 0::2].clamp(max=limit)
    linear = features[:, 1::2].clamp(-limit, limit)
    return gate * exact_sigmoid(gate * alpha) * (linear + 1.0)
