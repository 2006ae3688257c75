"""The arithmetic of blocks, by hand: blocks of 4 tokens, a window of 6."""

import pytest

from cluster.engine.blocks import BlockCount, BlockGeometry

GEOMETRY = BlockGeometry(block_tokens=4, window=6)


@pytest.mark.parametrize(
    ("num_computed", "expected"),
    [
        (0, (0, 0)),
        (1, (1, 1)),
        (4, (1, 1)),
        (5, (2, 2)),
        (8, (2, 2)),
        (9, (3, 2)),
        (12, (3, 2)),
        (13, (4, 2)),
        (16, (4, 2)),
        (17, (5, 2)),
    ],
)
def test_what_is_held_after_so_many_computed_tokens(num_computed: int, expected: tuple[int, int]) -> None:
    """The row at position c sees c - 5 .. c. After 9, position 4 is the first seen, so block 0 is given back."""
    assert GEOMETRY.held(num_computed) == BlockCount(*expected)


def test_no_more_is_held_than_the_geometry_promises() -> None:
    for window in range(1, 20):
        geometry = BlockGeometry(4, window)
        held = [geometry.held(num_computed).sliding for num_computed in range(200)]
        in_step = [geometry.held(computed).sliding + geometry.needed(computed, 1).sliding for computed in range(200)]
        assert max(held + in_step) <= geometry.max_sliding
        assert max(in_step) == geometry.max_sliding


@pytest.mark.parametrize(("num_computed", "free", "rows"), [(0, 1, 4), (3, 0, 1), (4, 0, 0), (5, 2, 11), (8, 1, 4)])
def test_how_many_rows_fit(num_computed: int, free: int, rows: int) -> None:
    assert GEOMETRY.rows_that_fit(num_computed, BlockCount(free, free + 3)) == rows
    assert GEOMETRY.rows_that_fit(num_computed, BlockCount(free + 3, free)) == rows
    assert GEOMETRY.needed(num_computed, rows) == BlockCount(free, free)
