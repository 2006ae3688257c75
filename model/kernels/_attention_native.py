"""The native body of `paged_attention`: row by row over the visible keys only."""

from dataclasses import dataclass

import torch
from torch import Tensor

from model.kernels.int8_rows import Int8Rows, Paged
from model.kernels.native_library import native_library, required_library
from model.kernels.threads import num_threads

_LANES = 8
_SUFFIX = {torch.float32: "f32", torch.bfloat16: "bf16"}


@dataclass(frozen=True, slots=True)
class RowPlan:
    """Where each of T rows stands, and where its sequence's keys lie."""

    positions: Tensor
    """[T] int64."""
    owners: Tensor
    """[T] int64: the row of `table`."""
    table: Tensor
    """[S, max_blocks] int64."""
    window: int
    """Keys a row may see; 0 for all."""
    split: int
    """Keys merged at a time."""


def can_attend(queries: Tensor, keys: Paged) -> bool:
    """Say whether the native kernel takes such tensors."""
    is_known = isinstance(keys, Int8Rows) or keys.dtype in _SUFFIX
    is_ours = queries.device.type == "cpu" and is_known and queries.shape[2] % _LANES == 0
    return is_ours and native_library() is not None


def paged_attention_native(
    queries: Tensor, keys: Paged, values: Paged, rows: RowPlan, sinks: Tensor, scale: float
) -> Tensor:
    """Return the attention output [T, Q, D] f32; see `model.kernels.attention`."""
    num_rows, num_heads, head_dim = queries.shape
    queries = queries.contiguous()
    out = torch.empty_like(queries)
    shape = (num_rows, num_heads, keys.shape[2], head_dim, keys.shape[1], rows.table.shape[1], rows.window, rows.split)
    required_library().call(
        f"em_attention_{'int8' if isinstance(keys, Int8Rows) else _SUFFIX[keys.dtype]}",
        torch.tensor(shape),
        queries,
        *_parts(keys),
        *_parts(values),
        rows.positions,
        rows.owners,
        rows.table,
        sinks.float().contiguous(),
        torch.tensor(scale),
        out,
        threads=num_threads(),
    )
    return out


def _parts(paged: Paged) -> tuple[Tensor, ...]:
    """Return what the kernel takes for keys or values: one tensor, or two where scales belong to it."""
    return (paged.stored, paged.scales) if isinstance(paged, Int8Rows) else (paged,)
