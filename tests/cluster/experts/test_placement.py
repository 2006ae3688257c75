"""Placements: even, never two copies on one worker, exact in JSON, and what moves between two."""

import itertools
from collections import Counter

import numpy as np
import pytest

from cluster.errors import PlacementError
from cluster.experts.placement import LOCAL, NO_COPY, Move, Placement, moves

GRID = [
    (layers, experts, workers, copies)
    for layers, experts, workers in itertools.product((1, 3, 6), (1, 2, 5, 8, 32), (1, 2, 3, 4, 7))
    for copies in range(1, min(workers, 3) + 1)
]


def names(count: int) -> list[str]:
    return [f"worker-{index}" for index in range(count)]


def spread(counts: list[int]) -> int:
    return max(counts) - min(counts)


@pytest.mark.parametrize(("layers", "experts", "workers", "copies"), GRID)
def test_uniform_is_even_in_all_in_each_layer_and_among_primaries(
    layers: int, experts: int, workers: int, copies: int
) -> None:
    placement = Placement.uniform(layers, experts, names(workers), copies)
    assert spread([len(placement.experts_on(worker)) for worker in placement.workers]) <= 1
    for layer in placement.copies:
        assert spread([sum(index in each for each in layer) for index in range(workers)]) <= 1
    primaries = Counter(placement.primary_table().ravel().tolist())
    assert spread([primaries[index] for index in range(workers)]) <= 1


def test_the_work_of_a_lost_worker_is_shared_by_all_others() -> None:
    placement = Placement.uniform(6, 8, names(4), copies=2)
    pairs = Counter(tuple(sorted(each)) for layer in placement.copies for each in layer)
    assert set(pairs.values()) == {8}
    assert len(pairs) == 6


def test_tables_name_primaries_first_and_fill_up_with_no_copy() -> None:
    placement = Placement(0, 1, 3, ("a", "b"), (((1,), (0, 1), (1, 0)),))
    assert placement.copy_table().tolist() == [[[1, NO_COPY], [0, 1], [1, 0]]]
    assert placement.primary_table().tolist() == [[1, 0, 1]]
    assert placement.holders(0, 2) == ("b", "a")
    assert placement.experts_on("b") == {(0, 0), (0, 1), (0, 2)}
    assert placement.experts_on("nobody") == frozenset()


def test_json_gives_the_same_placement_back() -> None:
    placement = Placement.uniform(3, 5, [*names(2), LOCAL], copies=2, epoch=7)
    assert Placement.from_json(placement.to_json()) == placement


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"epoch": 1}', '{"epoch":0,"num_layers":1}'])
def test_what_is_no_placement_is_refused(text: str) -> None:
    with pytest.raises(PlacementError):
        Placement.from_json(text)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epoch": -1}, "epoch -1"),
        ({"workers": ("a", "a")}, "not all different"),
        ({"workers": ()}, "are none"),
        ({"copies": (((0,), ()),)}, "expert 1 of layer 0 is on no worker"),
        ({"copies": (((0,), (1, 1)),)}, "twice on one worker"),
        ({"copies": (((0,), (2,)),)}, r"on workers \(2,\) of 2"),
        ({"copies": (((0,),),)}, "not 1 × 2"),
    ],
)
def test_inconsistent_values_are_refused_with_the_value(changes: dict[str, object], message: str) -> None:
    fields: dict[str, object] = {
        "epoch": 0, "num_layers": 1, "num_experts": 2, "workers": ("a", "b"), "copies": (((0,), (1,)),)
    }  # fmt: skip
    with pytest.raises(PlacementError, match=message):
        Placement(**{**fields, **changes})  # pyright: ignore[reportArgumentType]


def test_more_copies_than_workers_are_refused() -> None:
    with pytest.raises(PlacementError, match="3 copies of each expert need as many workers; there are 2"):
        Placement.uniform(1, 4, names(2), copies=3)


def test_moves_are_worked_out_by_hand() -> None:
    """Expert 0 goes from a to b, expert 1 gets a second copy on a, expert 2 loses its copy on b."""
    old = Placement(0, 1, 3, ("a", "b"), (((0,), (1,), (0, 1)),))
    new = Placement(1, 1, 3, ("a", "b"), (((1,), (1, 0), (0,)),))
    changed = moves(old, new)
    assert changed.puts == (Move("a", 0, 1), Move("b", 0, 0))
    assert changed.drops == (Move("a", 0, 0), Move("b", 0, 2))


def test_applying_the_moves_gives_the_new_placement() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        old, new = (random_placement(rng, epoch) for epoch in (0, 1))
        changed = moves(old, new)
        for worker in {*old.workers, *new.workers}:
            held = set(old.experts_on(worker)) | {(m.layer, m.expert) for m in changed.puts if m.worker == worker}
            held -= {(m.layer, m.expert) for m in changed.drops if m.worker == worker}
            assert held == new.experts_on(worker)


def random_placement(rng: np.random.Generator, epoch: int) -> Placement:
    workers = [str(name) for name in rng.permutation(names(5))[: rng.integers(1, 6)]]
    copies = tuple(
        tuple(
            tuple(int(index) for index in rng.permutation(len(workers))[: rng.integers(1, len(workers) + 1)])
            for _ in range(4)
        )
        for _ in range(2)
    )
    return Placement(epoch, 2, 4, tuple(workers), copies)
