"""Placements on more and fewer workers: even, whole, and with little to load."""

from random import Random

import pytest

from cluster.errors import PlacementError
from cluster.experts.placement import Placement
from cluster.experts.resize import resized


def names(num_workers: int) -> list[str]:
    return [f"worker-{index}" for index in range(num_workers)]


def num_loads(old: Placement, new: Placement) -> int:
    return sum(len(new.experts_on(worker) - old.experts_on(worker)) for worker in new.workers)


def test_the_newcomer_takes_what_is_over_its_even_share() -> None:
    """Four experts on two workers; of three, two hold one and one holds two."""
    old = Placement(3, 1, 4, ("a", "b"), (((0,), (0,), (1,), (1,)),))
    new = resized(old, ["a", "b", "c"], 1)
    assert (new.epoch, new.workers) == (4, ("a", "b", "c"))
    assert new.copies == (((0,), (0,), (1,), (2,)),)


def test_who_stays_takes_what_is_on_who_leaves() -> None:
    old = Placement(3, 1, 4, ("a", "b", "c"), (((0,), (1,), (2,), (2,)),))
    assert resized(old, ["a", "c"], 1).copies == (((0,), (0,), (1,), (1,)),)


def test_workers_are_known_by_name_not_by_place() -> None:
    old = Placement.uniform(2, 8, names(4), copies=2)
    new = resized(old, list(reversed(names(4))), 2)
    assert num_loads(old, new) == 0


def test_too_few_workers_for_the_copies_are_refused() -> None:
    with pytest.raises(PlacementError, match="2 copies of each expert need as many workers; there are 1"):
        resized(Placement.uniform(1, 4, names(2), 2), names(1), 2)


@pytest.mark.parametrize("seed", range(150))
def test_any_size_follows_any_other(seed: int) -> None:
    """Even slots, enough copies, and no more loads than slots that were not there or whose holder is gone."""
    random = Random(seed)
    copies = random.randint(1, 3)
    spare = random.randint(0, 2)
    num_layers, num_experts = random.randint(1, 3), random.randint(2, 16)
    placement = Placement.uniform(num_layers, num_experts, names(random.randint(copies, 6)), copies)
    for _ in range(4):
        workers = random.sample(names(8), random.randint(copies, 7))
        new = resized(placement, workers, copies, spare)
        assert new.workers == tuple(workers)
        sizes = [len(new.experts_on(worker)) for worker in workers]
        assert max(sizes) - min(sizes) <= 1 + (0 if spare == 0 else num_layers), sizes
        assert all(len(holders) >= copies for layer in new.copies for holders in layer)
        if not spare:
            assert all(len(holders) == copies for layer in new.copies for holders in layer)
        assert num_loads(new, resized(new, workers, copies, spare)) == 0, "what is even stays as it is"
        placement = new


def test_a_worker_more_loads_its_own_share_and_nobody_else_anything() -> None:
    old = Placement.uniform(24, 32, names(4), copies=2)
    new = resized(old, names(5), 2)
    assert num_loads(old, new) == len(new.experts_on("worker-4")) == 24 * 64 // 5
    back = resized(new, names(4), 2)
    assert num_loads(new, back) <= 1.05 * len(new.experts_on("worker-4")), "some change places to make room"
