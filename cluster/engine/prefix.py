"""What is known of a sequence's beginning: the names of its blocks, and how much of it is in the cache already."""

import hashlib
from array import array
from collections.abc import Sequence as Ordered
from dataclasses import dataclass
from typing import Protocol

from cluster.engine.block_pool import BlockName
from cluster.engine.blocks import BlockCount, BlockGeometry
from cluster.engine.sequence import Sequence

_NAME_BYTES = 16
_NO_BLOCKS = BlockCount(0, 0)


@dataclass(frozen=True, slots=True)
class CachedPrefix:
    """Whole blocks at a sequence's beginning whose keys and values need not be computed."""

    num_blocks: int = 0
    num_held: BlockCount = _NO_BLOCKS
    """Of the blocks that sharing it takes, those that somebody holds: they take nothing from what is free."""


class Cache(Protocol):
    """What the scheduler asks of the block manager."""

    def find(self, sequence: Sequence) -> CachedPrefix:
        """Return what a waiting sequence need not compute."""
        ...

    def held_alone(self, sequence: Sequence) -> BlockCount:
        """Return the blocks that come free when a running sequence gives up all of its own."""
        ...


@dataclass(frozen=True, slots=True)
class NoCache:
    """Nothing is shared and nothing found again."""

    geometry: BlockGeometry

    def find(self, sequence: Sequence) -> CachedPrefix:
        """Return nothing."""
        return CachedPrefix()

    def held_alone(self, sequence: Sequence) -> BlockCount:
        """Return all that the sequence holds."""
        return self.geometry.held(sequence.num_computed)


def extend_names(names: list[BlockName], salt: str, token_ids: Ordered[int], block_tokens: int) -> None:
    """Append the names of the whole blocks of `token_ids` that `names` lacks; equal tokens and salts, equal names."""
    while (len(names) + 1) * block_tokens <= len(token_ids):
        before = names[-1] if names else hashlib.blake2b(salt.encode(), digest_size=_NAME_BYTES).digest()
        start = len(names) * block_tokens
        content = array("q", token_ids[start : start + block_tokens]).tobytes()
        names.append(hashlib.blake2b(before + content, digest_size=_NAME_BYTES).digest())


def longest_prefix(has_sliding: Ordered[bool], geometry: BlockGeometry) -> int:
    """Return how many blocks can be used of those at the beginning that are there in the full group.

    In the sliding group, where `has_sliding` says which are there, the next row's window must find all it reaches.
    """
    best = run = 0
    for place, is_there in enumerate(has_sliding):
        run = run + 1 if is_there else 0
        num_blocks = place + 1
        if run >= num_blocks - geometry.first_sliding(num_blocks * geometry.block_tokens):
            best = num_blocks
    return best
