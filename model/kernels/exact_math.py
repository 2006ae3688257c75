"""Elementwise mathematics whose bits depend on the value alone.

Vendor libraries run one code path for the body of a tensor and another for its tail, so `exp` of the same number
may differ with the tensor's length. Everything here is built of IEEE additions, multiplications and divisions, each
rounded on its own, and of sums along a fixed tree: the same bits at any position, length, thread count and device.
The native body of the exponential keeps these bits.
"""

import torch
from torch import Tensor

from model.kernels.native_library import native_library
from model.kernels.threads import num_threads

_LOG2_E = 1.4426950408889634
_LN2_HI = 0.693145751953125
"""ln 2 cut to 12 significant bits, so that n * _LN2_HI is exact for every |n| <= 128."""
_LN2_LO = 1.42860682030941723e-6
_EXP_MIN = -87.0
_EXP_MAX = 88.0
_POLYNOMIAL = (1 / 5040, 1 / 720, 1 / 120, 1 / 24, 1 / 6, 1 / 2, 1.0, 1.0)
"""Taylor coefficients of exp on |r| <= ln2/2, highest power first; truncation error below 6e-9 relative."""
_TILE_ELEMENTS = 65_536
"""Elements computed at a time: the intermediate results stay in cache. It has no influence on bits."""


def exact_exp(x: Tensor) -> Tensor:
    """Return e**x for f32 `x` of any shape, within 2e-7 relative; exactly 1 at 0 and exactly 0 below -87.

    The method is Cody and Waite's range reduction x = n ln2 + r followed by a polynomial in r.
    """
    library = native_library()
    if library is None or x.device.type != "cpu":
        return exact_exp_torch(x)
    x = x.contiguous()
    out = torch.empty_like(x)
    library.call("em_exp", x, x.numel(), out, threads=num_threads())
    return out


def exact_exp_torch(x: Tensor) -> Tensor:
    """Return what `exact_exp` does, with the same bits, in torch."""
    out = torch.empty(x.shape, dtype=torch.float32, device=x.device)
    flat_in, flat_out = x.contiguous().view(-1), out.view(-1)
    for start in range(0, flat_in.numel(), _TILE_ELEMENTS):
        _exp_tile(flat_in[start : start + _TILE_ELEMENTS], flat_out[start : start + _TILE_ELEMENTS])
    return out


def _exp_tile(x: Tensor, out: Tensor) -> None:
    clamped = x.clamp(_EXP_MIN, _EXP_MAX)
    n = (clamped * _LOG2_E).round_()
    r = clamped.sub_(n * _LN2_HI).sub_(n * _LN2_LO)
    torch.mul(r, _POLYNOMIAL[0], out=out)
    for coefficient in _POLYNOMIAL[1:-1]:
        out.add_(coefficient).mul_(r)
    out.add_(_POLYNOMIAL[-1])
    scale = n.to(torch.int32).add_(127).bitwise_left_shift_(23).view(torch.float32)
    out.mul_(scale).mul_(x >= _EXP_MIN)


def exact_sigmoid(x: Tensor) -> Tensor:
    """Return 1 / (1 + e**-x) for f32 `x` of any shape."""
    return exact_exp(-x).add_(1.0).reciprocal_()


def tree_sum(x: Tensor, dim: int = -1) -> Tensor:
    """Return the sum of f32 `x` along `dim`, added pairwise along a tree that only that dimension's size decides."""
    x = x.movedim(dim, -1)
    size = x.shape[-1]
    if size == 0:
        return x.new_zeros(x.shape[:-1])
    while size > 1:
        half = size // 2
        folded = x[..., :half] + x[..., half : 2 * half]
        if size % 2:
            folded = torch.cat((folded, x[..., 2 * half :]), dim=-1)
        x, size = folded, half + size % 2
    return x[..., 0]
