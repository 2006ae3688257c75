"""The experts' two matmuls for rows grouped by expert.

Each expert's rows fill whole tiles of their own, so a row's bits do not depend on which rows chose the same expert.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from model.kernels.linear import ROW_TILE, multiply_tiles


@dataclass(frozen=True, slots=True)
class ExpertGroups:
    """P (row, expert) pairs laid out by expert in tiles."""

    experts: tuple[int, ...]
    """The experts that have rows, ascending."""
    first_row: tuple[int, ...]
    """Where each expert's tiles start, and at the end the number of all padded rows."""
    slots: Tensor
    """[P] the place of each pair among the padded rows."""

    @property
    def num_rows(self) -> int:
        """Return the number of padded rows, a multiple of ROW_TILE."""
        return self.first_row[-1]


def group_by_expert(expert_ids: Tensor) -> ExpertGroups:
    """Return the layout of pairs whose experts are `expert_ids` [P]; pairs of one expert keep their order."""
    counts = torch.bincount(expert_ids)
    tiled = (counts + ROW_TILE - 1) // ROW_TILE * ROW_TILE
    starts = tiled.cumsum(0) - tiled
    order = torch.argsort(expert_ids, stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(order.numel(), device=order.device)
    slots = rank - (counts.cumsum(0) - counts)[expert_ids] + starts[expert_ids]
    chosen = counts.nonzero()[:, 0]
    ends = [*starts[chosen].tolist(), int(tiled.sum())]
    return ExpertGroups(tuple(chosen.tolist()), tuple(ends), slots)


def expert_matmul_torch(
    padded: Tensor,
    groups: ExpertGroups,
    weights: Callable[[int], tuple[Tensor, Tensor]],
) -> Tensor:
    """Return [M, N] f32: each expert's padded rows times its weight transposed, plus its bias.

    padded [M, K] f32 in the layout of `groups`; weights(expert) gives the dequantised weight [N, K] and bias [N].
    """
    parts: list[Tensor] = []
    for expert, (first, end) in zip(groups.experts, pairwise(groups.first_row), strict=True):
        weight, bias = weights(expert)
        part = padded.new_empty((end - first, weight.shape[0]))
        multiply_tiles(padded[first:end], weight, part)
        parts.append(part.add_(bias))
    return torch.cat(parts)


expert_matmul = expert_matmul_torch
