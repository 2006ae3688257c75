"""Rescue: which surviving workers take over experts that no living worker holds. Pure.

Copies are only added: whoever is away keeps its share, has it again when it comes back, and then the placement from
before the rescue is returned to.
"""

from collections.abc import Collection
from dataclasses import replace

from cluster.experts.placement import Placement


def rescued(
    placement: Placement, settled: Placement, present: Collection[int], able: Collection[int], max_experts: int
) -> Placement | None:
    """Return `placement` with each expert that is on no `present` worker on one that is `able` to load it.

    Workers are indices; those able are present. Each takes over at most `max_experts` more than `settled`, the
    placement to return to, has on it; whoever has taken over least comes first. None if nobody can take over anything.

    Example: expert 1 is on worker 1 alone, which is away: ((0,), (1,)) becomes ((0,), (1, 0)).
    """
    num_taken = {index: _num_taken(placement, settled, index) for index in able}
    copies = [list(experts) for experts in placement.copies]
    for experts in copies:
        for expert, holders in enumerate(experts):
            free = [index for index in sorted(num_taken) if num_taken[index] < max_experts]
            if free and not any(index in present for index in holders):
                chosen = min(free, key=lambda index: num_taken[index])
                num_taken[chosen] += 1
                experts[expert] = (*holders, chosen)
    table = tuple(tuple(experts) for experts in copies)
    return None if table == placement.copies else replace(placement, copies=table)


def num_rescued(placement: Placement, settled: Placement) -> int:
    """Return how many experts workers hold in place of others."""
    return sum(_num_taken(placement, settled, index) for index in range(len(placement.workers)))


def _num_taken(placement: Placement, settled: Placement, index: int) -> int:
    worker = placement.workers[index]
    return len(placement.experts_on(worker) - settled.experts_on(worker))
