"""BlockPool: the KV blocks of one group. Blocks may be shared, and what is computed may be kept for whoever comes next.

    free         nothing of use in it
    held         in the tables of one sequence or more
    kept         in nobody's table, but its content has a name and may be asked for again

A kept block is as good as free: it is given out when no free one is left, those of little use first, then the oldest.
Only whole blocks whose
tokens are all computed get a name, so a block with a name is never written to while anybody holds it.
"""

from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence

BlockName = bytes
"""Stands for all tokens up to the block's end, and for whose they are."""


class BlockPool:
    """Blocks 1 .. num_blocks - 1 of a group."""

    def __init__(self, num_blocks: int) -> None:
        """Start with all blocks free."""
        self.capacity = num_blocks - 1
        self._free = list(range(num_blocks - 1, 0, -1))
        self._num_holders: dict[int, int] = {}
        self._kept: OrderedDict[int, None] = OrderedDict()
        self._kept_for_little: OrderedDict[int, None] = OrderedDict()
        self._blocks: dict[BlockName, int] = {}
        self._names: dict[int, BlockName] = {}

    @property
    def num_free(self) -> int:
        """Return the blocks that can be given out, kept ones included."""
        return len(self._free) + len(self._kept) + len(self._kept_for_little)

    def take(self, count: int) -> list[int]:
        """Give out blocks to one holder; the caller has made sure that there are enough."""
        assert self.num_free >= count, f"{count} blocks are wanted and {self.num_free} are free"
        split = max(0, len(self._free) - count)
        taken = self._free[split:]
        del self._free[split:]
        while len(taken) < count:
            block, _ = (self._kept_for_little or self._kept).popitem(last=False)
            del self._blocks[self._names.pop(block)]
            taken.append(block)
        self._num_holders |= dict.fromkeys(taken, 1)
        return taken

    def give_back(self, blocks: Iterable[int], is_useful: bool = True) -> None:
        """Let one holder go of blocks; `is_useful` says whether somebody may well ask for them again."""
        for block in blocks:
            self._num_holders[block] -= 1
            if self._num_holders[block]:
                continue
            del self._num_holders[block]
            if block in self._names:
                (self._kept if is_useful else self._kept_for_little)[block] = None
            else:
                self._free.append(block)

    def name(self, block: int, name: BlockName) -> None:
        """Give a held block's content a name, unless another block has it already."""
        if name not in self._blocks and block not in self._names:
            self._blocks[name] = block
            self._names[block] = name

    def has(self, name: BlockName) -> bool:
        """Say whether there is a block of that name."""
        return name in self._blocks

    def is_held(self, name: BlockName) -> bool:
        """Say whether somebody holds the block of that name."""
        return self._blocks.get(name) in self._num_holders

    def share(self, names: Sequence[BlockName]) -> list[int]:
        """Give the blocks of `names`, which are there, to one more holder."""
        blocks = [self._blocks[name] for name in names]
        for block in blocks:
            self._kept.pop(block, None)
            self._kept_for_little.pop(block, None)
            self._num_holders[block] = self._num_holders.get(block, 0) + 1
        return blocks

    def num_held_alone(self, blocks: Iterable[int]) -> int:
        """Return how many of `blocks` have no other holder."""
        return sum(self._num_holders[block] == 1 for block in blocks)

    def check_integrity(self, held: Iterable[int]) -> None:
        """Assert that each block is free, kept or held, that `held` are the holders' blocks, and that names agree."""
        holders = Counter(held)
        assert dict(holders) == self._num_holders, f"blocks lost, or held by nobody: {holders}, {self._num_holders}"
        kept = [*self._kept, *self._kept_for_little]
        everywhere = sorted([*self._free, *kept, *self._num_holders])
        assert everywhere == list(range(1, self.capacity + 1)), f"blocks lost or owned twice: {everywhere}"
        assert {block: name for name, block in self._blocks.items()} == self._names, "names and blocks disagree"
        assert set(kept) <= set(self._names), "a block without a name is kept"
        assert not set(self._free) & set(self._names), "a free block has a name"
