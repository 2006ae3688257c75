"""ExpertTraffic: which experts the tokens choose, the latest counting most.

The unit of forgetting is the token, not the second: an idle night teaches nothing and forgets nothing.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from cluster.experts.placement import IntArray, WorkerId

FloatArray = npt.NDArray[np.float64]

HALF_LIFE_TOKENS = 8192
"""After so many tokens of a layer, what it saw before counts half: some steps of a busy server."""


class ExpertTraffic:
    """Decayed counts of (token, expert) pairs by layer."""

    def __init__(self, num_layers: int, num_experts: int, half_life_tokens: float = HALF_LIFE_TOKENS) -> None:
        """Start without any traffic."""
        self._pairs = np.zeros((num_layers, num_experts))
        self._half_life_tokens = half_life_tokens

    def add(self, layer: int, expert_ids: IntArray) -> None:
        """Count the choices [T, K] of a step in one layer."""
        kept = 0.5 ** (expert_ids.shape[0] / self._half_life_tokens)
        self._pairs[layer] *= kept
        self._pairs[layer] += np.bincount(expert_ids.reshape(-1), minlength=self._pairs.shape[1])

    def pairs(self) -> FloatArray:
        """Return [L, E]: the decayed counts. Another thread may be counting: then a step is in some layers only."""
        return self._pairs.copy()


@dataclass(frozen=True, slots=True, eq=False)
class TrafficReport:
    """What one attention process tells about its traffic."""

    pairs: FloatArray
    """[L, E]: decayed counts of (token, expert) pairs."""
    epoch: int
    """Oldest epoch that one of its sends under way may go by."""
    pairs_by_worker: Mapping[WorkerId, int] = field(default_factory=dict[WorkerId, int])
    """What it has sent to each worker since it began."""
    has_all: bool = False
    """It holds every expert itself, beside those on workers or in their place."""
    obstacle: str = ""
    """Why it could not hold every expert itself; empty if it could."""


def total_pairs(reports: Iterable[TrafficReport], shape: tuple[int, int]) -> FloatArray:
    """Return [L, E]: the counts of all reports of this shape together."""
    return np.sum([np.zeros(shape), *(report.pairs for report in reports if report.pairs.shape == shape)], axis=0)


def traffic_shares(pairs: FloatArray) -> FloatArray:
    """Return [L, E]: each expert's share of its layer's pairs; equal shares where a layer has seen nothing."""
    totals = pairs.sum(axis=1, keepdims=True)
    equal = np.full_like(pairs, 1.0 / pairs.shape[1])
    return np.divide(pairs, totals, out=equal, where=totals > 0)
