"""Pairs of (row, expert) laid out by expert, so that each expert's weights are read once."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class ExpertGroups:
    """The order in which P pairs stand when they are sorted by expert."""

    experts: tuple[int, ...]
    """The experts that have pairs, ascending."""
    bounds: tuple[int, ...]
    """Where each expert's pairs start in that order, and at the end P."""
    order: Tensor
    """[P] the pairs in that order; pairs of one expert keep theirs."""

    def spans(self) -> Iterator[tuple[int, slice]]:
        """Return each expert with the places of its pairs."""
        return ((expert, slice(*ends)) for expert, ends in zip(self.experts, pairwise(self.bounds), strict=True))


def group_by_expert(expert_ids: Tensor) -> ExpertGroups:
    """Return the groups of pairs whose experts are `expert_ids` [P] int64."""
    # The experts' numbers are needed on the host in any case, and there numpy counts and sorts a few in no time.
    ids = expert_ids.cpu().numpy()
    counts = np.bincount(ids)
    chosen = np.flatnonzero(counts)
    ends = counts[chosen].cumsum().tolist()
    order = torch.from_numpy(np.argsort(ids, kind="stable"))
    return ExpertGroups(tuple(chosen.tolist()), (0, *ends), order.to(expert_ids.device))
