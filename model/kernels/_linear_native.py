"""The native body of `linear`: eight output features side by side, one fused sum each, in order of the inputs."""

import torch
from torch import Tensor

from model.kernels.native_library import required_library
from model.kernels.threads import num_threads

LANES = 8
"""Output features that lie side by side in a packed weight."""
_SUFFIX = {torch.float32: "f32", torch.bfloat16: "bf16"}


def pack_lanes(weight: Tensor) -> Tensor:
    """Return weight [N, K] f32 or bf16 as [ceil(N / 8), K, 8], missing features zero."""
    features, width = weight.shape
    packed = weight.new_zeros((-(-features // LANES), width, LANES))
    required_library().call(f"em_dense_pack_{_SUFFIX[weight.dtype]}", weight.contiguous(), features, width, packed)
    return packed


def linear_native(rows: Tensor, packed: Tensor) -> Tensor:
    """Return rows [T, K] times the packed weight [N / 8, K, 8] transposed as [T, N] f32."""
    rows = rows.float().contiguous()
    groups, width, _ = packed.shape
    assert rows.shape[1] == width, f"rows {tuple(rows.shape)} do not fit a weight of width {width}"
    out = torch.empty((rows.shape[0], groups * LANES), dtype=torch.float32)
    sizes = rows.shape[0], width
    name = f"em_dense_{_SUFFIX[packed.dtype]}"
    required_library().call(name, rows, *sizes, packed, groups * LANES, out, threads=num_threads())
    return out
