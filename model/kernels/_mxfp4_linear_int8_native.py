"""The native body of `mxfp4_linear_int8`; it reads the layout of `_mxfp4_linear_native`."""

import torch
from torch import Tensor

from model.kernels._mxfp4_linear_native import FEATURES
from model.kernels.native_library import required_library
from model.kernels.threads import num_threads


def mxfp4_linear_int8_native(rows: Tensor, packed: Tensor) -> Tensor:
    """Return rows [T, K], rounded to eight bits, times the packed weight transposed as [T, N] f32."""
    rows = rows.float().contiguous()
    num_rows, width = rows.shape
    features = packed.shape[0] * FEATURES
    assert width == packed.shape[1] * 32, f"rows {tuple(rows.shape)} do not fit a weight {tuple(packed.shape)}"
    out = torch.empty((num_rows, features), dtype=torch.float32)
    required_library().call("em_mxfp4_int8", rows, num_rows, width, packed, features, out, threads=num_threads())
    return out
