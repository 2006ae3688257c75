"""Rebalancing: the next few moves that bring a placement closer to the traffic. Pure, and never a plan from scratch.

A domain shift changes which experts are hot. A fresh plan would move nearly everything; here each round makes the
single changes that relieve the fullest worker of the worst layer, as many as are allowed, and stops when the layers
are even enough. A worker keeps its number of slots in each layer: a copy comes where a superfluous one goes, or two
experts change places. No expert gets fewer copies than the failure of a worker asks for, and none two on one worker.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cluster.experts.placement import Placement
from cluster.experts.traffic import FloatArray

BoolArray = npt.NDArray[np.bool_]

_MOST_SWEEPS = 12
_STILL = 1e-3
"""Sweeps that move less than this part of the traffic are the last."""
_NUM_EMPTIER = 3
"""Workers that a change may relieve the fullest one to: the emptiest."""
_NUM_NEAREST = 2
"""Experts tried at each place of a change: those whose share fits best."""


@dataclass(frozen=True, slots=True)
class BalanceLimits:
    """When to move, and how much."""

    max_imbalance: float = 1.08
    """Largest load of a worker over the mean, in any layer, that is left alone."""
    max_loads_per_round: int = 16
    """Experts that workers load in a round, all together."""
    min_gain: float = 0.01
    """A change must lower its layer's imbalance by so much: noise is no reason to move."""
    min_copies: int = 1
    """Copies that each expert keeps, or as many as it has."""


@dataclass(frozen=True, slots=True, eq=False)
class BalancePlan:
    """What a round of balancing came to."""

    placement: Placement
    """The one to have next; the one there is if nothing is worth moving."""
    imbalance: float
    """Before the moves: the fullest worker's load over the mean, averaged over the layers."""


def balance_plan(placement: Placement, shares: FloatArray, limits: BalanceLimits) -> BalancePlan:
    """Return the next placement and how even the present one is; shares [L, E] as `rebalanced` takes them."""
    holds = residence(placement)
    before = [imbalance(held, share) for held, share in zip(holds, shares, strict=True)]
    return BalancePlan(rebalanced(placement, shares, limits), float(np.mean(before)))


def rebalanced(placement: Placement, shares: FloatArray, limits: BalanceLimits) -> Placement:
    """Return the next placement (its epoch one higher), or `placement` itself if nothing is worth moving.

    shares [L, E] are the experts' shares of their layer's traffic.
    """
    holds = residence(placement)
    loads_left = limits.max_loads_per_round
    layers = [_Layer(holds[layer], shares[layer], limits) for layer in range(placement.num_layers)]
    stuck: set[int] = set()
    while loads_left > 0:
        open_layers = [n for n, layer in enumerate(layers) if n not in stuck and layer.imbalance > limits.max_imbalance]
        if not open_layers:
            break
        worst = max(open_layers, key=lambda n: layers[n].imbalance)
        num_loads = layers[worst].improve(loads_left)
        loads_left -= num_loads
        if num_loads == 0:
            stuck.add(worst)
    if loads_left == limits.max_loads_per_round:
        return placement
    return _placement_of(placement, np.stack([layer.holds for layer in layers]))


def residence(placement: Placement) -> BoolArray:
    """Return [L, E, W]: whether the worker holds the expert."""
    table = placement.copy_table()
    return (table[:, :, :, None] == np.arange(len(placement.workers))).any(axis=2)


def worker_loads(holds: BoolArray, shares: FloatArray) -> FloatArray:
    """Return [W]: each worker's part of a layer's traffic when copies share their expert's as evenly as they can.

    holds [E, W], shares [E]. Experts with one copy are fixed; the others are poured, one after the other and again,
    so that their holders stand level, which converges to the least possible maximum.
    """
    copies = holds.sum(axis=1)
    loads: FloatArray = shares[copies == 1] @ holds[copies == 1]
    several = [(np.flatnonzero(holds[expert]), float(shares[expert])) for expert in np.flatnonzero(copies > 1).tolist()]
    parts = [np.zeros(len(holders)) for holders, _ in several]
    for _ in range(_MOST_SWEEPS):
        moved = 0.0
        for place, (holders, share) in enumerate(several):
            loads[holders] -= parts[place]
            poured = _poured(loads[holders], share)
            moved += float(np.abs(poured - parts[place]).sum())
            parts[place] = poured
            loads[holders] += poured
        if moved <= _STILL:
            break
    return loads


def imbalance(holds: BoolArray, shares: FloatArray) -> float:
    """Return the fullest worker's load over the mean, for one layer."""
    loads = worker_loads(holds, shares)
    return float(loads.max() / loads.mean()) if loads.sum() > 0 else 1.0


def _poured(levels: FloatArray, amount: float) -> FloatArray:
    """Return how much each gets when `amount` is poured where the level is lowest."""
    order = np.argsort(levels, kind="stable")
    ordered = levels[order]
    surfaces = (np.cumsum(ordered) + amount) / np.arange(1, len(ordered) + 1)
    num_wet = int(np.flatnonzero(surfaces >= ordered)[-1]) + 1
    parts = np.zeros(len(levels))
    parts[order[:num_wet]] = surfaces[num_wet - 1] - ordered[:num_wet]
    return parts


class _Layer:
    """One layer's placement while it is being improved."""

    def __init__(self, holds: BoolArray, shares: FloatArray, limits: BalanceLimits) -> None:
        self.holds = holds.copy()
        self._shares = shares
        self._limits = limits
        self.imbalance = imbalance(holds, shares)

    def improve(self, most_loads: int) -> int:
        """Make the best single change, if it is worth it; return how many experts are loaded for it."""
        min_gain = self._limits.min_gain
        best, best_cost, best_value = None, 0, self.imbalance - min_gain
        for changed, num_loads in self._changes():
            if num_loads > most_loads:
                continue
            value = imbalance(changed, self._shares) + min_gain * (num_loads - 1)
            if value < best_value:
                best, best_cost, best_value = changed, num_loads, value
        if best is None:
            return 0
        self.holds, self.imbalance = best, imbalance(best, self._shares)
        return best_cost

    def _changes(self) -> list[tuple[BoolArray, int]]:
        """Return promising changes of the fullest worker with what each costs in loads.

        Either one of its experts gets a further copy on an emptier worker, in place of a superfluous copy there; or
        one of them changes places with a smaller one of an emptier worker.
        """
        loads = worker_loads(self.holds, self._shares)
        fullest, *_ = np.argsort(-loads, kind="stable").tolist()
        changes: list[tuple[BoolArray, int]] = []
        for worker in np.argsort(loads, kind="stable")[:_NUM_EMPTIER].tolist():
            surplus = float(loads[fullest] - loads[worker]) / 2
            if surplus > 0:
                changes += [(one, 1) for one in self._copied(fullest, worker)]
                changes += [(one, 2) for one in self._swapped(fullest, worker, surplus)]
        return changes

    def _copied(self, fullest: int, worker: int) -> list[BoolArray]:
        """Copy one of the hottest experts over one of the coldest superfluous copies."""
        is_spare = self.holds[:, worker] & (self.holds.sum(axis=1) > self._limits.min_copies)
        coldest = sorted(np.flatnonzero(is_spare).tolist(), key=lambda expert: self._shares[expert])[:_NUM_NEAREST]
        own = np.flatnonzero(self.holds[:, fullest] & ~self.holds[:, worker]).tolist()
        hottest = sorted(own, key=lambda expert: -self._shares[expert])[:_NUM_NEAREST]
        return [self._with((expert, worker, True), (victim, worker, False)) for expert in hottest for victim in coldest]

    def _swapped(self, fullest: int, worker: int, surplus: float) -> list[BoolArray]:
        """Let two experts whose shares differ by about `surplus` change places."""
        own = np.flatnonzero(self.holds[:, fullest] & ~self.holds[:, worker])
        theirs = np.flatnonzero(self.holds[:, worker] & ~self.holds[:, fullest])
        misfit = np.abs(self._shares[own][:, None] - self._shares[theirs] - surplus)
        nearest = np.argsort(misfit, axis=None, kind="stable")[:_NUM_NEAREST].tolist()
        pairs = [(int(own[place // len(theirs)]), int(theirs[place % len(theirs)])) for place in nearest]
        return [
            self._with((one, worker, True), (one, fullest, False), (other, fullest, True), (other, worker, False))
            for one, other in pairs
        ]

    def _with(self, *changes: tuple[int, int, bool]) -> BoolArray:
        holds = self.holds.copy()
        for expert, worker, is_held in changes:
            holds[expert, worker] = is_held
        return holds


def _placement_of(old: Placement, holds: BoolArray) -> Placement:
    """Return the placement of a residence [L, E, W]; copies that stay keep their order, so primaries change rarely."""
    copies = tuple(
        tuple(_ordered(before, np.flatnonzero(now).tolist()) for before, now in zip(layer, held, strict=True))
        for layer, held in zip(old.copies, holds, strict=True)
    )
    return Placement(old.epoch + 1, old.num_layers, old.num_experts, old.workers, copies)


def _ordered(before: tuple[int, ...], now: list[int]) -> tuple[int, ...]:
    return (*(worker for worker in before if worker in now), *(worker for worker in now if worker not in before))
