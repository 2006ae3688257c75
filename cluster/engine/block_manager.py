"""BlockManager: which sequence owns which KV block, in both groups.

    full     [ 7  2  9  4 ]      every block of the sequence, in position order
    sliding  [ 0  0  5  3 ]      0: left every window, and given back

Block 0 is never handed out. Ids have no influence on results: attention reads positions, wherever they lie.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from cluster.engine.blocks import BlockCount, BlockGeometry
from model.batch import BlockTables, IntArray


class BlockManager:
    """Owns the ids of all blocks; a sequence that runs is known here by an owner number of the caller's choice."""

    def __init__(self, num_blocks: BlockCount, geometry: BlockGeometry, max_owners: int, max_tokens: int) -> None:
        """Manage blocks 1 .. num_blocks - 1 of each group for `max_owners` sequences of up to `max_tokens` tokens."""
        self.geometry = geometry
        self.capacity = BlockCount(num_blocks.full - 1, num_blocks.sliding - 1)
        self._free_full = list(range(num_blocks.full - 1, 0, -1))
        self._free_sliding = list(range(num_blocks.sliding - 1, 0, -1))
        width = geometry.num_blocks(max_tokens)
        self._full = np.zeros((max_owners, width), dtype=np.int64)
        self._sliding = np.zeros((max_owners, width), dtype=np.int64)
        self._num_blocks = [0] * max_owners
        self._first_sliding = [0] * max_owners
        self._free_slots = list(range(max_owners - 1, -1, -1))
        self._slot_of: dict[int, int] = {}

    @property
    def free(self) -> BlockCount:
        """Return the blocks that nobody owns."""
        return BlockCount(len(self._free_full), len(self._free_sliding))

    def admit(self, owner: int) -> None:
        """Give `owner` an empty table."""
        assert owner not in self._slot_of, f"owner {owner} has a table already"
        self._slot_of[owner] = self._free_slots.pop()

    def grow(self, owner: int, num_tokens: int) -> None:
        """Allocate what positions 0 .. num_tokens - 1 lack; the caller has made sure that there is enough."""
        slot = self._slot_of[owner]
        start, stop = self._num_blocks[slot], self.geometry.num_blocks(num_tokens)
        if stop <= start:
            return
        self._full[slot, start:stop] = _take(self._free_full, stop - start)
        self._sliding[slot, start:stop] = _take(self._free_sliding, stop - start)
        self._num_blocks[slot] = stop

    def slide(self, owner: int, num_computed: int) -> None:
        """Give back the sliding blocks that no row from position `num_computed` on can see."""
        slot = self._slot_of[owner]
        start, stop = self._first_sliding[slot], self.geometry.first_sliding(num_computed)
        if stop <= start:
            return
        self._free_sliding.extend(self._sliding[slot, start:stop].tolist())
        self._sliding[slot, start:stop] = 0
        self._first_sliding[slot] = stop

    def release(self, owner: int) -> None:
        """Give back everything that `owner` has."""
        slot = self._slot_of.pop(owner)
        first, stop = self._first_sliding[slot], self._num_blocks[slot]
        self._free_full.extend(self._full[slot, :stop].tolist())
        self._free_sliding.extend(self._sliding[slot, first:stop].tolist())
        self._full[slot, :stop] = 0
        self._sliding[slot, :stop] = 0
        self._num_blocks[slot] = self._first_sliding[slot] = 0
        self._free_slots.append(slot)

    def tables(self, owners: Sequence[int]) -> BlockTables:
        """Return a copy of the owners' tables, as wide as the longest of them."""
        slots = [self._slot_of[owner] for owner in owners]
        width = max((self._num_blocks[slot] for slot in slots), default=0)
        return BlockTables(self._full[slots, :width], self._sliding[slots, :width])

    def check_integrity(self, owners: dict[int, tuple[int, int]]) -> None:
        """Assert that each block is free or owned, once, and that owners hold what they must and nothing more.

        `owners` maps each owner to its computed tokens and to the tokens that blocks are allocated for.
        """
        assert set(owners) == set(self._slot_of), (owners, self._slot_of)
        assert len(self._free_slots) + len(self._slot_of) == self._full.shape[0], (self._free_slots, self._slot_of)
        _check_group("full", self._free_full, self._full, self.capacity.full)
        _check_group("sliding", self._free_sliding, self._sliding, self.capacity.sliding)
        for owner, (num_computed, num_allocated) in owners.items():
            slot = self._slot_of[owner]
            first, stop = self.geometry.first_sliding(num_computed), self.geometry.num_blocks(num_allocated)
            lacking = f"owner {owner} with {num_computed} of {num_allocated} tokens computed: "
            assert (self._first_sliding[slot], self._num_blocks[slot]) == (first, stop), lacking + "wrong counts"
            assert np.flatnonzero(self._full[slot]).tolist() == list(range(stop)), lacking + f"{self._full[slot]}"
            held = np.flatnonzero(self._sliding[slot]).tolist()
            assert held == list(range(first, stop)), lacking + f"{self._sliding[slot]}"


def _take(free: list[int], count: int) -> list[int]:
    assert len(free) >= count, f"{count} blocks are wanted and {len(free)} are free"
    taken = free[-count:]
    del free[-count:]
    return taken


def _check_group(name: str, free: list[int], tables: IntArray, capacity: int) -> None:
    found = Counter(free) + Counter(tables[tables > 0].tolist())
    assert found == Counter(range(1, capacity + 1)), f"{name} blocks lost or owned twice: {found}"
