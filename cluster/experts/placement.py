"""Placement: which workers hold a copy of which expert, as a value with an epoch; and what to move between two.

A placement decides where an expert runs, never what comes out. Collapsed is a placement too: one worker, LOCAL.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from cluster.errors import PlacementError

WorkerId: TypeAlias = str
ExpertKey: TypeAlias = tuple[int, int]
"""(layer, expert)."""
Copies: TypeAlias = tuple[tuple[tuple[int, ...], ...], ...]
IntArray: TypeAlias = npt.NDArray[np.int64]

LOCAL: WorkerId = "local"
"""The device that also runs attention."""
FALLBACK: WorkerId = "fallback"
"""The same device when it stands in for workers that cannot be asked; no placement names it."""
NO_COPY = -1
"""Fills the rows of a copy table whose expert has fewer copies than another; no index of a worker."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where every expert of every layer lives. Any inconsistent set of values is a PlacementError."""

    epoch: int
    """Version number: a higher epoch replaces a lower one."""
    num_layers: int
    num_experts: int
    workers: tuple[WorkerId, ...]
    copies: Copies
    """copies[layer][expert]: indices into `workers`, the primary copy first."""

    def __post_init__(self) -> None:
        _check_shape(self)
        for layer, experts in enumerate(self.copies):
            for expert, indices in enumerate(experts):
                _check_copies(layer, expert, indices, len(self.workers))

    @classmethod
    def uniform(
        cls, num_layers: int, num_experts: int, workers: Sequence[WorkerId], copies: int = 1, epoch: int = 0
    ) -> "Placement":
        """Return the placement that gives all workers equally many experts of each layer, give or take one.

        Never puts two copies of one expert on one worker. Second copies of one worker's experts are spread over all
        the others, so that these share its work evenly when it is lost.
        """
        if not 1 <= copies <= len(workers):
            raise PlacementError(f"{copies} copies of each expert need as many workers; there are {len(workers)}")
        dealer = _Dealer(len(workers), copies)
        table = tuple(dealer.layer(num_experts) for _ in range(num_layers))
        return cls(epoch, num_layers, num_experts, tuple(workers), table)

    @classmethod
    def collapsed(cls, num_layers: int, num_experts: int, epoch: int = 0) -> "Placement":
        """Return the placement with every expert beside attention."""
        return cls.uniform(num_layers, num_experts, (LOCAL,), epoch=epoch)

    @property
    def is_collapsed(self) -> bool:
        """Say whether every expert is beside attention, on no worker."""
        return self.workers == (LOCAL,)

    @property
    def num_workers(self) -> int:
        """Return how many workers hold the experts; none if they are beside attention."""
        return 0 if self.is_collapsed else len(self.workers)

    def copy_table(self) -> IntArray:
        """Return [L, E, C]: the worker indices of each expert's copies, primary first, filled up with NO_COPY."""
        most = max(len(indices) for experts in self.copies for indices in experts)
        table = np.full((self.num_layers, self.num_experts, most), NO_COPY, dtype=np.int64)
        for layer, experts in enumerate(self.copies):
            for expert, indices in enumerate(experts):
                table[layer, expert, : len(indices)] = indices
        return table

    def primary_table(self) -> IntArray:
        """Return [L, E]: the worker index of each expert's primary copy."""
        return self.copy_table()[:, :, 0]

    def holders(self, layer: int, expert: int) -> tuple[WorkerId, ...]:
        """Return the workers that hold the expert, primary first."""
        return tuple(self.workers[index] for index in self.copies[layer][expert])

    def experts_on(self, worker: WorkerId) -> frozenset[ExpertKey]:
        """Return the experts that `worker` holds; none if the placement does not know it."""
        return frozenset(
            (layer, expert)
            for layer, experts in enumerate(self.copies)
            for expert, indices in enumerate(experts)
            if any(self.workers[index] == worker for index in indices)
        )

    def to_json(self) -> str:
        """Return the placement as one line of JSON."""
        fields = {name: getattr(self, name) for name in _FIELDS}
        return json.dumps(fields, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> "Placement":
        """Return the placement that `to_json` wrote; raises PlacementError on anything else."""
        try:
            document: dict[str, Any] = json.loads(text)
            document["copies"] = tuple(tuple(tuple(each) for each in experts) for experts in document["copies"])
            document["workers"] = tuple(document["workers"])
            return cls(**document)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise PlacementError(f"this is no placement: {error!r}") from error


_FIELDS = ("epoch", "num_layers", "num_experts", "workers", "copies")


@dataclass(frozen=True, slots=True)
class Move:
    """One expert that a worker gains or loses."""

    worker: WorkerId
    layer: int
    expert: int


@dataclass(frozen=True, slots=True)
class Moves:
    """What changes between two placements: first all puts, then the new epoch is published, then the drops."""

    puts: tuple[Move, ...]
    drops: tuple[Move, ...]


def with_spare_copies(placement: Placement, num_slots: int) -> Placement:
    """Return `placement` with up to `num_slots` more experts of each layer on each worker: those with fewest copies.

    Which ones differs from layer to layer and worker to worker; none comes twice on one worker.
    """
    layers = tuple(
        _with_spares(experts, layer, num_slots, len(placement.workers))
        for layer, experts in enumerate(placement.copies)
    )
    return replace(placement, copies=layers)


def _with_spares(
    experts: tuple[tuple[int, ...], ...], layer: int, num_slots: int, num_workers: int
) -> tuple[tuple[int, ...], ...]:
    copies = [list(indices) for indices in experts]
    for number in range(num_slots * num_workers):
        worker = (number + layer) % num_workers
        absent = [expert for expert, indices in enumerate(copies) if worker not in indices]
        if absent:
            first = (number + layer) % len(copies)
            chosen = min(absent, key=lambda expert: (len(copies[expert]), (expert - first) % len(copies)))
            copies[chosen].append(worker)
    return tuple(tuple(indices) for indices in copies)


def moves(old: Placement, new: Placement) -> Moves:
    """Return what each worker must load and forget to get from `old` to `new`, in order of worker, layer, expert."""
    before, after = _residence(old), _residence(new)
    puts, drops = sorted(after - before), sorted(before - after)
    return Moves(tuple(Move(*each) for each in puts), tuple(Move(*each) for each in drops))


def _residence(placement: Placement) -> set[tuple[WorkerId, int, int]]:
    return {(worker, *key) for worker in placement.workers for key in placement.experts_on(worker)}


class _Dealer:
    """Deals the copies of one expert after the other to workers.

    A round of W experts gives every worker one primary and one of each further copy, shifted by another distance in
    each round. Experts that fill no round go to the least laden.
    """

    def __init__(self, num_workers: int, copies: int) -> None:
        self._num_workers = num_workers
        self._copies = copies
        self._num_rounds = 0
        self._extra = [0] * num_workers
        self._extra_primaries = [0] * num_workers

    def layer(self, num_experts: int) -> tuple[tuple[int, ...], ...]:
        """Return the copies of one layer's experts."""
        dealt: list[tuple[int, ...]] = []
        while num_experts - len(dealt) >= self._num_workers:
            dealt += self._round()
        in_layer = [0] * self._num_workers
        while len(dealt) < num_experts:
            dealt.append(self._single(in_layer))
        return tuple(dealt)

    def _round(self) -> list[tuple[int, ...]]:
        others = max(1, self._num_workers - 1)
        shifts = (0, *(1 + (self._num_rounds + copy) % others for copy in range(self._copies - 1)))
        self._num_rounds += 1
        return [
            tuple((primary + shift) % self._num_workers for shift in shifts) for primary in range(self._num_workers)
        ]

    def _single(self, in_layer: list[int]) -> tuple[int, ...]:
        by_cost = sorted(range(self._num_workers), key=lambda worker: (in_layer[worker], self._extra[worker]))
        chosen = sorted(by_cost[: self._copies], key=lambda worker: self._extra_primaries[worker])
        self._extra_primaries[chosen[0]] += 1
        for worker in chosen:
            in_layer[worker] += 1
            self._extra[worker] += 1
        return tuple(chosen)


def _check_shape(placement: Placement) -> None:
    layers, experts = placement.num_layers, placement.num_experts
    if placement.epoch < 0 or layers < 1 or experts < 1:
        raise PlacementError(f"epoch {placement.epoch}, {layers} layers, {experts} experts: not a placement")
    if not placement.workers or len(set(placement.workers)) != len(placement.workers):
        raise PlacementError(f"workers {placement.workers} are none, or not all different")
    if len(placement.copies) != layers or any(len(each) != experts for each in placement.copies):
        given = sorted({len(each) for each in placement.copies})
        raise PlacementError(f"copies of {len(placement.copies)} layers × {given} experts, not {layers} × {experts}")


def _check_copies(layer: int, expert: int, indices: tuple[int, ...], num_workers: int) -> None:
    if not indices:
        raise PlacementError(f"expert {expert} of layer {layer} is on no worker")
    if len(set(indices)) != len(indices):
        raise PlacementError(f"expert {expert} of layer {layer} is twice on one worker: {indices}")
    if not all(0 <= index < num_workers for index in indices):
        raise PlacementError(f"expert {expert} of layer {layer} is on workers {indices} of {num_workers}")
