"""BlockManager: which sequence holds which KV block, in both groups, and what is computed already of a new one.

    full     [ 7  2  9  4 ]      every block of the sequence, in position order
    sliding  [ 0  0  5  3 ]      0: left every window, and given back

Block 0 is never handed out. Ids have no influence on results: attention reads positions, wherever they lie. Sequences
that begin alike share whole blocks: keys and values depend on nothing but the tokens before them.
"""

from collections.abc import Sequence as Ordered
from itertools import takewhile

import numpy as np

from cluster.engine.block_pool import BlockName, BlockPool
from cluster.engine.blocks import BlockCount, BlockGeometry
from cluster.engine.prefix import CachedPrefix, extend_names, longest_prefix
from cluster.engine.sequence import Sequence
from model.batch import BlockTables, IntArray


class BlockManager:
    """Owns the ids of all blocks; a sequence that runs is known here by its arrival number, the owner."""

    def __init__(
        self,
        num_blocks: BlockCount,
        geometry: BlockGeometry,
        max_owners: int,
        max_tokens: int,
        keeps_prefixes: bool = True,
    ) -> None:
        """Manage blocks 1 .. num_blocks - 1 of each group for `max_owners` sequences of up to `max_tokens` tokens."""
        self.geometry = geometry
        self._full_pool = BlockPool(num_blocks.full)
        self._sliding_pool = BlockPool(num_blocks.sliding)
        self._keeps_prefixes = keeps_prefixes
        width = geometry.num_blocks(max_tokens)
        self._full = np.zeros((max_owners, width), dtype=np.int64)
        self._sliding = np.zeros((max_owners, width), dtype=np.int64)
        self._num_blocks = [0] * max_owners
        self._first_sliding = [0] * max_owners
        self._free_slots = list(range(max_owners - 1, -1, -1))
        self._slot_of: dict[int, int] = {}
        self._names: dict[int, list[BlockName]] = {}

    @property
    def capacity(self) -> BlockCount:
        """Return the blocks there are."""
        return BlockCount(self._full_pool.capacity, self._sliding_pool.capacity)

    @property
    def free(self) -> BlockCount:
        """Return the blocks that can be given out."""
        return BlockCount(self._full_pool.num_free, self._sliding_pool.num_free)

    def find(self, sequence: Sequence) -> CachedPrefix:
        """Return what need not be computed of a waiting sequence: all but its last token at most."""
        if not self._keeps_prefixes:
            return CachedPrefix()
        most = (sequence.num_known - 1) // self.geometry.block_tokens
        # A sequence that waits is asked about in every step: its long prompt is read as far as it is there.
        names = list(takewhile(self._full_pool.has, self._named(sequence)[:most]))
        num_blocks = longest_prefix([self._sliding_pool.has(name) for name in names], self.geometry)
        full, sliding = self._parts(names, num_blocks)
        held = BlockCount(
            sum(self._full_pool.is_held(name) for name in full),
            sum(self._sliding_pool.is_held(name) for name in sliding),
        )
        return CachedPrefix(num_blocks, held)

    def held_alone(self, sequence: Sequence) -> BlockCount:
        """Return the blocks that come free when a running sequence gives up all of its own."""
        full, sliding = self._held(self._slot_of[sequence.arrival])
        return BlockCount(self._full_pool.num_held_alone(full), self._sliding_pool.num_held_alone(sliding))

    def admit(self, sequence: Sequence, num_cached_blocks: int = 0) -> None:
        """Give a sequence a table that begins with `num_cached_blocks` blocks which `find` has found."""
        owner = sequence.arrival
        assert owner not in self._slot_of, f"owner {owner} has a table already"
        slot = self._slot_of[owner] = self._free_slots.pop()
        full, sliding = self._parts(self._named(sequence), num_cached_blocks)
        first = num_cached_blocks - len(sliding)
        self._full[slot, :num_cached_blocks] = self._full_pool.share(full)
        self._sliding[slot, first:num_cached_blocks] = self._sliding_pool.share(sliding)
        self._num_blocks[slot], self._first_sliding[slot] = num_cached_blocks, first

    def grow(self, owner: int, num_tokens: int) -> None:
        """Allocate what positions 0 .. num_tokens - 1 lack; the caller has made sure that there is enough."""
        slot = self._slot_of[owner]
        start, stop = self._num_blocks[slot], self.geometry.num_blocks(num_tokens)
        if stop <= start:
            return
        self._full[slot, start:stop] = self._full_pool.take(stop - start)
        self._sliding[slot, start:stop] = self._sliding_pool.take(stop - start)
        self._num_blocks[slot] = stop

    def computed(self, sequence: Sequence, start: int) -> None:
        """Note that tokens from `start` to `num_computed` are computed.

        Whole blocks get names; blocks that no row will see, and those beyond, where a draft was wrong, are let go.
        """
        slot, block_tokens = self._slot_of[sequence.arrival], self.geometry.block_tokens
        if self._keeps_prefixes:
            names = self._named(sequence)
            for place in range(start // block_tokens, sequence.num_computed // block_tokens):
                self._full_pool.name(int(self._full[slot, place]), names[place])
                self._sliding_pool.name(int(self._sliding[slot, place]), names[place])
        self._slide(slot, sequence.num_computed)
        self._cut(slot, sequence.num_computed)

    def release(self, owner: int) -> None:
        """Give back everything that `owner` has; of a sequence's blocks, its last ones are forgotten first."""
        slot = self._slot_of.pop(owner)
        full, sliding = self._held(slot)
        self._full_pool.give_back(reversed(full))
        self._sliding_pool.give_back(reversed(sliding))
        stop = self._num_blocks[slot]
        self._full[slot, :stop] = 0
        self._sliding[slot, :stop] = 0
        self._num_blocks[slot] = self._first_sliding[slot] = 0
        self._free_slots.append(slot)

    def forget(self, owner: int) -> None:
        """Forget the names of a sequence that has left the engine."""
        self._names.pop(owner, None)

    def tables(self, owners: Ordered[int]) -> BlockTables:
        """Return a copy of the owners' tables, as wide as the longest of them."""
        slots = [self._slot_of[owner] for owner in owners]
        width = max((self._num_blocks[slot] for slot in slots), default=0)
        return BlockTables(self._full[slots, :width], self._sliding[slots, :width])

    def check_integrity(self, owners: dict[int, tuple[int, int]]) -> None:
        """Assert that each block is where it should be, and that owners hold what they must and nothing more.

        `owners` maps each owner to its computed tokens and to the tokens that blocks are allocated for.
        """
        assert set(owners) == set(self._slot_of), (owners, self._slot_of)
        assert len(self._free_slots) + len(self._slot_of) == self._full.shape[0], (self._free_slots, self._slot_of)
        self._full_pool.check_integrity(self._full[self._full > 0].tolist())
        self._sliding_pool.check_integrity(self._sliding[self._sliding > 0].tolist())
        for owner, (num_computed, num_allocated) in owners.items():
            slot = self._slot_of[owner]
            first, stop = self.geometry.first_sliding(num_computed), self.geometry.num_blocks(num_allocated)
            lacking = f"owner {owner} with {num_computed} of {num_allocated} tokens computed: "
            assert (self._first_sliding[slot], self._num_blocks[slot]) == (first, stop), lacking + "wrong counts"
            assert np.flatnonzero(self._full[slot]).tolist() == list(range(stop)), lacking + f"{self._full[slot]}"
            held = np.flatnonzero(self._sliding[slot]).tolist()
            assert held == list(range(first, stop)), lacking + f"{self._sliding[slot]}"

    def _named(self, sequence: Sequence) -> list[BlockName]:
        names = self._names.setdefault(sequence.arrival, [])
        extend_names(names, sequence.request.cache_salt, sequence.token_ids, self.geometry.block_tokens)
        return names

    def _parts(self, names: Ordered[BlockName], num_blocks: int) -> tuple[Ordered[BlockName], Ordered[BlockName]]:
        """Return which blocks a prefix takes from the full group, and which from the sliding one."""
        first = self.geometry.first_sliding(num_blocks * self.geometry.block_tokens)
        return names[:num_blocks], names[first:num_blocks]

    def _held(self, slot: int) -> tuple[list[int], list[int]]:
        first, stop = self._first_sliding[slot], self._num_blocks[slot]
        return self._full[slot, :stop].tolist(), self._sliding[slot, first:stop].tolist()

    def _slide(self, slot: int, num_computed: int) -> None:
        """Give back the sliding blocks that no row from position `num_computed` on can see."""
        start, stop = self._first_sliding[slot], self.geometry.first_sliding(num_computed)
        if stop <= start:
            return
        unseen: IntArray = self._sliding[slot, start:stop]
        # Inside a text nobody is likely to begin; where a sequence ends, the next turn does.
        self._sliding_pool.give_back(unseen.tolist(), is_useful=False)
        self._sliding[slot, start:stop] = 0
        self._first_sliding[slot] = stop

    def _cut(self, slot: int, num_tokens: int) -> None:
        """Give back the blocks after those of positions 0 .. num_tokens - 1."""
        start, stop = self.geometry.num_blocks(num_tokens), self._num_blocks[slot]
        if stop <= start:
            return
        self._full_pool.give_back(self._full[slot, start:stop].tolist())
        self._sliding_pool.give_back(self._sliding[slot, start:stop].tolist())
        self._full[slot, start:stop] = 0
        self._sliding[slot, start:stop] = 0
        self._num_blocks[slot] = start
