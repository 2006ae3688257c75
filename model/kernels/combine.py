"""The one sum over a token's experts (N3)."""

import torch
from torch import Tensor

from model.kernels.native_library import native_library
from model.kernels.threads import num_threads

_SUFFIX = {torch.float32: "f32", torch.bfloat16: "bf16"}


def combine(outputs: Tensor, weights: Tensor) -> Tensor:
    """Return sum over k of weights[:, k] * outputs[:, k] as [T, H] f32, added in the order k = 0 .. K-1.

    outputs [T, K, H] in the expert output dtype, weights [T, K] f32.
    """
    library = native_library()
    if library is None or outputs.device.type != "cpu" or outputs.dtype not in _SUFFIX:
        return combine_torch(outputs, weights)
    num_tokens, _, width = outputs.shape
    out = torch.empty((num_tokens, width), dtype=torch.float32)
    name, given = f"em_combine_{_SUFFIX[outputs.dtype]}", (outputs.contiguous(), weights.contiguous())
    library.call(name, *given, *outputs.shape, out, threads=num_threads())
    return out


def combine_torch(outputs: Tensor, weights: Tensor) -> Tensor:
    """Return what `combine` does, with the same bits, in torch."""
    total = outputs[:, 0].float() * weights[:, :1]
    for k in range(1, outputs.shape[1]):
        total = total + outputs[:, k].float() * weights[:, k : k + 1]
    return total
