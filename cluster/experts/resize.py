"""Resizing: the placement on more or fewer workers, with as many copies as can be left where they are. Pure.

An even share for everybody, as the placement to begin with has it; but a copy that is on a worker that stays, and
fits into that worker's share, stays there. What is loaded is what the others lack.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from cluster.errors import PlacementError
from cluster.experts.placement import Placement, WorkerId


def resized(placement: Placement, workers: Sequence[WorkerId], copies: int, num_spare_slots: int = 0) -> Placement:
    """Return `placement` on `workers`, its epoch one higher; raises PlacementError if they are too few for the copies.

    Each expert has at least `copies` copies, and each worker as many slots in a layer as any other, give or take one,
    `num_spare_slots` of them for further copies.

    Example: experts 0, 1, 2, 3 on workers a, a, b, b; with worker c as well they are on a, a, b, c.
    """
    if not 1 <= copies <= len(workers):
        raise PlacementError(f"{copies} copies of each expert need as many workers; there are {len(workers)}")
    places = {worker: place for place, worker in enumerate(workers)}
    totals = [0] * len(workers)
    layers: list[tuple[tuple[int, ...], ...]] = []
    for experts in placement.copies:
        stayed = [
            [places[placement.workers[i]] for i in holders if placement.workers[i] in places] for holders in experts
        ]
        layer = _Layer(stayed, _slots(totals, len(experts), copies, num_spare_slots), copies)
        layers.append(layer.filled())
    return Placement(placement.epoch + 1, placement.num_layers, placement.num_experts, tuple(workers), tuple(layers))


def _slots(totals: list[int], num_experts: int, copies: int, num_spare_slots: int) -> list[int]:
    """Return how many experts of the next layer each worker holds; whoever has had least before gets one more."""
    even, odd = divmod(num_experts * copies, len(totals))
    more = set(sorted(range(len(totals)), key=lambda worker: totals[worker])[:odd])
    slots = [min(num_experts, even + (worker in more) + num_spare_slots) for worker in range(len(totals))]
    for worker, count in enumerate(slots):
        totals[worker] += count
    return slots


@dataclass(slots=True)
class _Layer:
    """One layer while its copies are dealt anew."""

    holders: list[list[int]]
    """Of each expert, the workers that hold it; whoever held it before comes first."""
    slots: list[int]
    copies: int
    held: list[set[int]] = field(init=False)

    def __post_init__(self) -> None:
        self.held = [
            {e for e, holders in enumerate(self.holders) if worker in holders} for worker in range(len(self.slots))
        ]

    def filled(self) -> tuple[tuple[int, ...], ...]:
        """Return the copies once every worker has its slots full, and every expert its copies."""
        for worker, slots in enumerate(self.slots):
            while len(self.held[worker]) > slots:
                self._drop(
                    max(sorted(self.held[worker], reverse=True), key=lambda expert: len(self.holders[expert])), worker
                )
        while lacking := [expert for expert, holders in enumerate(self.holders) if len(holders) < self.copies]:
            self._give(min(lacking, key=lambda expert: len(self._able(expert))))
        while free := self._free():
            worker = max(free, key=self._room)
            others = [expert for expert in range(len(self.holders)) if expert not in self.held[worker]]
            self._put(min(others, key=lambda expert: len(self.holders[expert])), worker)
        return tuple(tuple(holders) for holders in self.holders)

    def _give(self, expert: int) -> None:
        """Give an expert one copy more, where there is room or can be made."""
        if not self._free():
            extra = [one for one, holders in enumerate(self.holders) if len(holders) > self.copies]
            self._drop(extra[0], self.holders[extra[0]][-1])
        if able := self._able(expert):
            self._put(expert, max(able, key=self._room))
            return
        # All that have room hold it: one of them takes something off a worker that does not.
        roomy = self._free()[0]
        for other, held in enumerate(self.held):
            movable = sorted(held - self.held[roomy])
            if expert not in held and movable:
                self._drop(movable[0], other)
                self._put(movable[0], roomy)
                self._put(expert, other)
                return
        raise AssertionError(f"no worker can take expert {expert}: {self.held} in {self.slots} slots")

    def _able(self, expert: int) -> list[int]:
        return [worker for worker in self._free() if expert not in self.held[worker]]

    def _free(self) -> list[int]:
        return [worker for worker in range(len(self.slots)) if self._room(worker) > 0]

    def _room(self, worker: int) -> int:
        return self.slots[worker] - len(self.held[worker])

    def _put(self, expert: int, worker: int) -> None:
        self.holders[expert].append(worker)
        self.held[worker].add(expert)

    def _drop(self, expert: int, worker: int) -> None:
        self.holders[expert].remove(worker)
        self.held[worker].discard(expert)
