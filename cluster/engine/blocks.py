"""How many KV blocks a sequence holds: arithmetic only.

Full layers keep every position. Sliding layers keep what some row to come can still see, and give up a block as soon
as all of it has left every window. So what a sequence holds between steps follows from its computed tokens alone.
"""

from dataclasses import dataclass
from typing import NamedTuple


class BlockCount(NamedTuple):
    """A number of blocks in each group."""

    full: int
    sliding: int

    def plus(self, other: "BlockCount") -> "BlockCount":
        """Return the sum, group by group."""
        return BlockCount(self.full + other.full, self.sliding + other.sliding)

    def minus(self, other: "BlockCount") -> "BlockCount":
        """Return the difference, group by group; it may be negative."""
        return BlockCount(self.full - other.full, self.sliding - other.sliding)

    def covers(self, other: "BlockCount") -> bool:
        """Say whether there are at least as many in both groups."""
        return self.full >= other.full and self.sliding >= other.sliding


@dataclass(frozen=True, slots=True)
class BlockGeometry:
    """The sizes that decide how many blocks are needed."""

    block_tokens: int
    window: int
    """Positions that a row of a sliding layer sees, its own included."""

    def num_blocks(self, num_tokens: int) -> int:
        """Return the blocks that positions 0 .. num_tokens - 1 lie in."""
        return -(-num_tokens // self.block_tokens)

    def first_sliding(self, num_computed: int) -> int:
        """Return the first block that a row at position `num_computed` or later can see in a sliding layer."""
        return max(0, num_computed - self.window + 1) // self.block_tokens

    def held(self, num_computed: int) -> BlockCount:
        """Return what a sequence holds between steps."""
        num_blocks = self.num_blocks(num_computed)
        return BlockCount(num_blocks, num_blocks - self.first_sliding(num_computed))

    def needed(self, num_computed: int, num_rows: int) -> BlockCount:
        """Return what must be allocated before the next `num_rows` rows can be stored."""
        missing = self.num_blocks(num_computed + num_rows) - self.num_blocks(num_computed)
        return BlockCount(missing, missing)

    def rows_that_fit(self, num_computed: int, free: BlockCount) -> int:
        """Return how many rows can be stored with `free` more blocks."""
        return (self.num_blocks(num_computed) + min(free)) * self.block_tokens - num_computed

    @property
    def max_sliding(self) -> int:
        """Return the most sliding blocks a sequence needs while it computes one row a step."""
        return self.num_blocks(self.window - 1) + 1

    def settled(self, num_tokens: int) -> BlockCount:
        """Return what a sequence will hold at most when it has caught up with `num_tokens` and adds one row a step."""
        num_blocks = self.num_blocks(num_tokens)
        return BlockCount(num_blocks, min(num_blocks, self.max_sliding))
