"""Who takes over experts whose last holder is away."""

import random

import pytest

from cluster.experts.placement import Placement
from cluster.experts.rescue import num_rescued, rescued
from tests.cluster.experts.hand import names

FIRST = Placement(3, 1, 4, ("worker-0", "worker-1", "worker-2"), (((0,), (1,), (1, 2), (2,)),))


def test_only_experts_without_a_living_holder_are_taken_over() -> None:
    """Worker 1 is away: expert 1 was there alone, expert 2 is on worker 2 too."""
    placement = rescued(FIRST, FIRST, {0, 2}, {0, 2}, 9)
    assert placement is not None
    assert placement.copies == (((0,), (1, 0), (1, 2), (2,)),)
    assert num_rescued(placement, FIRST) == 1


def test_whoever_has_taken_over_least_comes_first() -> None:
    first = Placement(0, 1, 5, ("worker-0", "worker-1", "worker-2"), (((1,), (1,), (1,), (0,), (2,)),))
    placement = rescued(first, first, {0, 2}, {0, 2}, 9)
    assert placement is not None
    assert placement.copies == (((1, 0), (1, 2), (1, 0), (0,), (2,)),)


def test_nobody_takes_over_more_than_it_may_in_several_rescues_together() -> None:
    placement = rescued(FIRST, FIRST, {0}, {0}, 1)
    assert placement is not None
    assert placement.copies == (((0,), (1, 0), (1, 2), (2,)),)
    assert rescued(placement, FIRST, {0}, {0}, 1) is None
    more = rescued(placement, FIRST, {0}, {0}, 2)
    assert more is not None
    assert more.copies == (((0,), (1, 0), (1, 2, 0), (2,)),)


@pytest.mark.parametrize(("present", "able"), [({0, 1, 2}, {0, 1, 2}), ({0, 2}, set[int]()), (set[int](), set[int]())])
def test_where_nothing_is_lost_or_nobody_can_load_there_is_no_rescue(present: set[int], able: set[int]) -> None:
    assert rescued(FIRST, FIRST, present, able, 9) is None


@pytest.mark.parametrize("seed", range(50))
def test_with_room_enough_every_expert_has_a_holder_and_the_work_is_shared(seed: int) -> None:
    chance = random.Random(seed)
    num_workers = chance.randint(2, 6)
    first = Placement.uniform(3, 16, names(num_workers), chance.randint(1, num_workers))
    present = set(chance.sample(range(num_workers), chance.randint(1, num_workers)))
    placement = rescued(first, first, present, present, 10**6) or first
    taken: dict[int, int] = dict.fromkeys(present, 0)
    for before, after in zip(first.copies, placement.copies, strict=True):
        for old, new in zip(before, after, strict=True):
            assert new[: len(old)] == old, "a copy went or changed its place"
            assert present & set(new)
            for index in new[len(old) :]:
                assert not present & set(old), "it had a living holder"
                taken[index] += 1
    assert max(taken.values()) - min(taken.values()) <= 1
    assert num_rescued(placement, first) == sum(taken.values())
