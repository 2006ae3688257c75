"""Blocks are handed out once, come back once, and no book-keeping error goes unseen."""

import numpy as np
import pytest

from cluster.engine.block_manager import BlockManager
from cluster.engine.blocks import BlockCount, BlockGeometry
from cluster.engine.sequence import Sequence
from tests.cluster.engine.driver import request


def _sequence(owner: int, num_computed: int = 0, num_known: int = 40) -> Sequence:
    sequence = Sequence(request(f"s{owner}", [owner] * num_known), owner)
    sequence.num_computed = num_computed
    return sequence


def _manager() -> BlockManager:
    return BlockManager(BlockCount(11, 9), BlockGeometry(block_tokens=4, window=6), max_owners=3, max_tokens=40)


def test_tables_hold_distinct_blocks_in_both_groups() -> None:
    manager = _manager()
    for owner, num_tokens in ((7, 5), (8, 12)):
        manager.admit(_sequence(owner))
        manager.grow(owner, num_tokens)
    tables = manager.tables([8, 7])
    assert tables.full.shape == tables.sliding.shape == (2, 3)
    assert np.count_nonzero(tables.full, axis=1).tolist() == [3, 2]
    for table in (tables.full, tables.sliding):
        blocks = table[table > 0].tolist()
        assert len(set(blocks)) == 5
    assert manager.free == BlockCount(5, 3)
    manager.check_integrity({7: (0, 5), 8: (0, 12)})


def test_sliding_blocks_leave_with_the_window_and_keep_their_columns() -> None:
    """After 13 computed tokens position 8 is the first seen: blocks 0 and 1 are given back."""
    manager = _manager()
    manager.admit(_sequence(1))
    manager.grow(1, 13)
    before = manager.tables([1])
    manager.computed(_sequence(1, 13), 0)
    after = manager.tables([1])
    assert after.full.tolist() == before.full.tolist()
    assert after.sliding[0].tolist() == [0, 0, *before.sliding[0, 2:].tolist()]
    assert manager.free == BlockCount(6, 6)
    manager.check_integrity({1: (13, 13)})


def test_everything_comes_back() -> None:
    manager = _manager()
    for _ in range(3):
        for owner in (1, 2, 3):
            manager.admit(_sequence(owner))
            manager.grow(owner, 9)
            manager.computed(_sequence(owner, 9), 0)
        for owner in (2, 3, 1):
            manager.release(owner)
        assert manager.free == manager.capacity == BlockCount(10, 8)
        manager.check_integrity({})


def test_a_copy_of_the_tables_does_not_follow_later_changes() -> None:
    manager = _manager()
    manager.admit(_sequence(1))
    manager.grow(1, 9)
    tables = manager.tables([1])
    kept = tables.sliding.copy()
    manager.computed(_sequence(1, 9), 0)
    assert np.array_equal(tables.sliding, kept)


def test_taking_more_than_is_free_is_a_bug_and_says_so() -> None:
    manager = _manager()
    manager.admit(_sequence(1))
    with pytest.raises(AssertionError, match="10 blocks are wanted and 8 are free"):
        manager.grow(1, 40)


@pytest.mark.parametrize(
    "damage",
    [
        lambda manager: manager._full_pool._free.pop(),
        lambda manager: manager._sliding_pool._free.append(manager.tables([1]).sliding[0, 0]),
        lambda manager: manager._full.__setitem__((0, 0), 9),
        lambda manager: manager._sliding.__setitem__((0, 1), 0),
        lambda manager: manager._free_slots.pop(),
        lambda manager: manager.admit(_sequence(2)),
        lambda manager: manager.grow(1, 9),
        lambda manager: manager._slide(0, 12),
        lambda manager: manager._full_pool._num_holders.__setitem__(manager.tables([1]).full[0, 0], 2),
        lambda manager: manager._full_pool._blocks.popitem(),
    ],
)
def test_every_kind_of_damage_is_found(damage: object) -> None:
    manager = _manager()
    manager.admit(_sequence(1))
    manager.grow(1, 8)
    manager.computed(_sequence(1, 8), 0)
    manager.check_integrity({1: (8, 8)})
    assert callable(damage)
    damage(manager)
    with pytest.raises(AssertionError):
        manager.check_integrity({1: (8, 8)})
