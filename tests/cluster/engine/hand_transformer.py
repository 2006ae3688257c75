"""A model whose tokens can be worked out on paper, and which sees every mistake in the paging.

It stores token ids as keys, in a sliding and in a full layer, and reads its whole past back through the block tables,
as a transformer does: the logits of a row say what lies in the cache, not what was meant to lie there.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from model.batch import ForwardBatch, IntArray
from model.config import ModelConfig
from model.kv_cache import KVCache, KVCacheShape
from model.moe import Experts
from tests.support.paged import as_tensor, spoil
from tests.support.random_model import random_config

VOCAB_SIZE = 97
WINDOW = 6
BLOCK_TOKENS = 4
STEP = 0.25
"""By so much falls each logit below the one before, going up from the best token and around."""


def hand_config(window: int = WINDOW) -> ModelConfig:
    """Return the dimensions of the hand model: one sliding and one full layer."""
    return random_config(
        num_layers=2, num_heads=1, num_kv_heads=1, head_dim=2, vocab_size=VOCAB_SIZE, sliding_window=window
    )


def hand_cache(num_blocks_full: int, num_blocks_sliding: int, window: int = WINDOW) -> KVCache:
    """Return a cache in which nothing is stored: reading it gives NaN."""
    shape = KVCacheShape(num_blocks_full, num_blocks_sliding, BLOCK_TOKENS)
    cache = KVCache(hand_config(window), shape, torch.float32, "cpu")
    spoil(cache, num_layers=2)
    return cache


def hand_target(token_ids: list[int], window: int = WINDOW) -> int:
    """Return the best next token after `token_ids`: a weighted sum of all, and of those in the window, modulo V."""
    start = max(0, len(token_ids) - window)
    whole = sum((position + 1) * token for position, token in enumerate(token_ids))
    seen = sum((position + 1) * token for position, token in enumerate(token_ids) if position >= start)
    return (whole + 3 * seen + len(token_ids)) % VOCAB_SIZE


def hand_continuation(prompt: list[int], count: int) -> list[int]:
    """Return the next `count` tokens at temperature 0."""
    token_ids = list(prompt)
    for _ in range(count):
        token_ids.append(hand_target(token_ids))
    return token_ids[len(prompt) :]


@dataclass
class HandTransformer:
    """Logit v of a row lies STEP * ((v - target) mod V) below zero. `fail_with` makes every step fail."""

    window: int = WINDOW
    fail_with: Exception | None = None
    num_steps: int = 0
    largest_step: int = 0

    def forward(self, batch: ForwardBatch, kv_cache: KVCache, experts: Experts) -> Tensor:
        """Return logits [R, V] and store the batch's tokens."""
        self.num_steps += 1
        self.largest_step = max(self.largest_step, batch.num_tokens)
        if self.fail_with is not None:
            raise self.fail_with
        sliding, full = (as_tensor(kv_cache.layer(layer)[0]) for layer in range(2))
        owners = np.repeat(np.arange(batch.num_sequences), batch.num_rows)
        _store(sliding, batch, batch.block_tables.sliding, owners)
        _store(full, batch, batch.block_tables.full, owners)
        rows = [self._logits(batch, row, int(owners[row]), sliding, full) for row in batch.logit_rows.tolist()]
        return torch.tensor(rows, dtype=torch.float32).view(len(rows), VOCAB_SIZE)

    def _logits(self, batch: ForwardBatch, row: int, owner: int, sliding: Tensor, full: Tensor) -> list[float]:
        stop = int(batch.positions[row]) + 1
        start = max(0, stop - self.window)
        whole = _read(full, batch.block_tables.full[owner], 0, stop)
        seen = _read(sliding, batch.block_tables.sliding[owner], start, stop)
        target = int(whole + 3 * seen + stop) % VOCAB_SIZE
        return [-STEP * ((token - target) % VOCAB_SIZE) for token in range(VOCAB_SIZE)]


def _store(keys: Tensor, batch: ForwardBatch, table: IntArray, owners: IntArray) -> None:
    blocks = table[owners, batch.positions // BLOCK_TOKENS]
    assert blocks.min() > 0, f"a row has no block to store into: {table}"
    keys[blocks, batch.positions % BLOCK_TOKENS, 0, 0] = torch.from_numpy(batch.token_ids).float()


def _read(keys: Tensor, table: IntArray, start: int, stop: int) -> int:
    """Return the sum of (position + 1) * token over positions start .. stop - 1."""
    positions = np.arange(start, stop)
    blocks = table[positions // BLOCK_TOKENS]
    assert blocks.min() > 0, f"a visible position has no block: {table}, positions {start} to {stop}"
    stored = keys[blocks, positions % BLOCK_TOKENS, 0, 0].numpy().astype(np.float64)
    total = float((stored * (positions + 1)).sum())
    assert not np.isnan(total), "a position was read that nobody stored"
    return int(total)
