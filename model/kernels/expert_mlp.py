"""All experts of a layer on their rows in one native call: gather by expert, both matrices with SwiGLU, scatter.

It has the bits of the same kernels called one by one, as `ExpertShard` does where this is not possible; only what lies
between them, Python and the waking of threads, is saved.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from model.kernels.constants import constants
from model.kernels.mxfp4_linear import Mxfp4Weight
from model.kernels.native_library import required_library
from model.kernels.threads import num_threads


@dataclass(frozen=True, slots=True)
class MlpWeights:
    """One expert's packed matrices and f32 biases."""

    mlp1: Mxfp4Weight
    mlp1_bias: Tensor
    mlp2: Mxfp4Weight
    mlp2_bias: Tensor

    def addresses(self) -> tuple[int, int, int, int]:
        """Return where the four lie, as the kernel's table has them."""
        parts = self.mlp1.packed, self.mlp1_bias, self.mlp2.packed, self.mlp2_bias
        return parts[0].data_ptr(), parts[1].data_ptr(), parts[2].data_ptr(), parts[3].data_ptr()


class ExpertTable:
    """The experts of one layer that live here. It never changes: whoever computes with it keeps their weights alive."""

    def __init__(self, num_experts: int, experts: Mapping[int, MlpWeights]) -> None:
        """Take the weights of some of `num_experts` experts."""
        self.experts = dict(experts)
        self.addresses = torch.zeros((num_experts, 4), dtype=torch.int64)
        for expert, weights in experts.items():
            self.addresses[expert] = torch.tensor(weights.addresses())

    def with_expert(self, expert: int, weights: MlpWeights | None) -> "ExpertTable":
        """Return a table in which `expert` has other weights, or none."""
        others = {other: kept for other, kept in self.experts.items() if other != expert}
        return ExpertTable(len(self.addresses), others if weights is None else others | {expert: weights})


def expert_mlp(
    rows: Tensor, row_ids: Tensor, expert_ids: Tensor, table: ExpertTable, limits: tuple[float, float], is_int8: bool
) -> Tensor:
    """Return [P, H] bf16: pair p is expert `expert_ids[p]` on rows[row_ids[p]], for rows [R, H] bf16 and ids [P] int64.

    `limits` are SwiGLU's limit and alpha; with `is_int8` rows are rounded to eight bits. Raises KeyError with the first
    expert that does not live here.
    """
    assert rows.dtype == torch.bfloat16, f"the kernel reads rows as bf16, not {rows.dtype}"
    num_pairs, hidden = len(expert_ids), rows.shape[1]
    inner = next(iter(table.experts.values())).mlp2.packed.shape[1] * 32 if table.experts else 0
    out = torch.empty((num_pairs, hidden), dtype=torch.bfloat16)
    missing = required_library().call(
        "em_expert_mlp",
        *(rows.contiguous(), row_ids.contiguous(), expert_ids.contiguous(), num_pairs),
        *(table.addresses, len(table.addresses), hidden, inner),
        *(constants(*limits), int(is_int8), out),
        threads=num_threads(),
    )
    if missing >= 0:
        raise KeyError(missing)
    return out
