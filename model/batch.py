"""ForwardBatch: what one engine step computes, every field with its shape.

Rows of one sequence stand together and in ascending position; prefill and decode differ only in how many rows a
sequence brings. The engine builds it on the host; `attention_plan` turns it into tensors once per step.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class BlockTables:
    """Where each sequence's keys and values lie, per layer kind; block 0 is never used and marks a freed block."""

    full: IntArray
    """[S, max_blocks]: block ids in position order for full-attention layers, 0-padded."""
    sliding: IntArray
    """[S, max_blocks]: the same for sliding layers; blocks that left every window are 0."""


@dataclass(frozen=True, slots=True)
class ForwardBatch:
    """One step: T rows of S sequences. All arrays live on the host."""

    token_ids: IntArray
    """[T] the input tokens."""
    positions: IntArray
    """[T] absolute positions; ascending by one inside a sequence."""
    num_rows: IntArray
    """[S] rows that each sequence brings, each at least 1; they sum to T."""
    block_tables: BlockTables
    """Keys and values of positions 0 .. last position of each sequence, the rows of this step included."""
    logit_rows: IntArray
    """[R] indices into T of the rows whose logits are wanted, ascending; R may be 0."""

    @property
    def num_tokens(self) -> int:
        """Return T."""
        return int(self.token_ids.shape[0])

    @property
    def num_sequences(self) -> int:
        """Return S."""
        return int(self.num_rows.shape[0])
