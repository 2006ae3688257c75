"""The native body of the MXFP4 matmuls; it reads the layout of `_mxfp4_layout`."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from model.kernels._mxfp4_layout import FEATURES
from model.kernels.native_library import required_library
from model.kernels.threads import num_threads

Kernel = Literal["em_mxfp4", "em_mxfp4_int8"]


def mxfp4_experts_native(
    kernel: Kernel, rows: Tensor, packed: Sequence[Tensor], biases: Sequence[Tensor], bounds: Sequence[int]
) -> Tensor:
    """Return rows [T, K] times packed weights transposed, plus biases [N] f32, as [T, N] f32.

    Weight e is for the rows from `bounds[e]` to `bounds[e + 1]`; all have the same shape.
    """
    rows = rows.float().contiguous()
    num_rows, width = rows.shape
    features = packed[0].shape[0] * FEATURES
    assert width == packed[0].shape[1] * 32, f"rows {tuple(rows.shape)} do not fit a weight {tuple(packed[0].shape)}"
    assert num_rows == bounds[-1], f"{num_rows} rows, bounds {bounds}"
    assert all(bias.dtype is torch.float32 for bias in biases), "the kernel reads biases as f32"
    out = torch.empty((num_rows, features), dtype=torch.float32)
    places = [torch.tensor(values) for values in (bounds, _addresses(packed), _addresses(biases))]
    required_library().call(kernel, rows, *places, len(packed), width, features, out, threads=num_threads())
    return out


def _addresses(tensors: Sequence[Tensor]) -> list[int]:
    return [tensor.data_ptr() for tensor in tensors]
