"""Running a transformer by hand: whole prompts, chunks, single tokens, several sequences in a step."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from model.batch import BlockTables, ForwardBatch
from model.expert_shard import ExpertShard
from model.kv_cache import KVCache, KVCacheShape
from model.moe import Experts, Finished, GateOutput
from model.transformer import Transformer
from tests.support.paged import spoil

BLOCK_TOKENS = 16


@dataclass
class Sheet:
    """Several sequences over one cache, each with its own fixed blocks, given out in a shuffled order."""

    transformer: Transformer
    experts: Experts
    num_sequences: int
    max_tokens: int
    seed: int = 0
    computed: list[int] = field(default_factory=list[int])

    def __post_init__(self) -> None:
        """Allocate a cache in which nothing is stored: reading it gives NaN."""
        per_sequence = -(-self.max_tokens // BLOCK_TOKENS)
        num_blocks = 1 + per_sequence * self.num_sequences
        shape = KVCacheShape(num_blocks, num_blocks, BLOCK_TOKENS)
        config = self.transformer.config
        self.kv_cache = KVCache(config, shape, self.transformer.numerics.kv, self.transformer.device)
        spoil(self.kv_cache, config.num_layers)
        order = np.random.default_rng(self.seed).permutation(np.arange(1, num_blocks))
        self.table = order.reshape(self.num_sequences, per_sequence)
        self.computed = [0] * self.num_sequences

    def step(self, rows: Sequence[tuple[int, Sequence[int]]]) -> list[Tensor]:
        """Compute the next tokens of some sequences, [(sequence, token ids)], in that order; logits of every row."""
        lengths = [len(ids) for _, ids in rows]
        positions = [self.computed[who] + offset for who, ids in rows for offset in range(len(ids))]
        table = self.table[[who for who, _ in rows]]
        batch = ForwardBatch(
            token_ids=np.array([token for _, ids in rows for token in ids], dtype=np.int64),
            positions=np.array(positions, dtype=np.int64),
            num_rows=np.array(lengths, dtype=np.int64),
            block_tables=BlockTables(table, table),
            logit_rows=np.arange(sum(lengths)),
        )
        logits = self.transformer.forward(batch, self.kv_cache, self.experts)
        for who, ids in rows:
            self.computed[who] += len(ids)
        return list(logits.split(lengths))


def run_in_chunks(transformer: Transformer, experts: Experts, ids: Sequence[int], chunks: Sequence[int]) -> Tensor:
    """Return the logits [T, V] of one sequence computed in chunks of the given sizes, which sum to its length."""
    assert sum(chunks) == len(ids), f"chunks {chunks} do not make {len(ids)} tokens"
    sheet = Sheet(transformer, experts, num_sequences=1, max_tokens=len(ids))
    parts, start = [], 0
    for size in chunks:
        parts += sheet.step([(0, ids[start : start + size])])
        start += size
    return torch.cat(parts)


def one_sequence_batch(num_rows: int) -> ForwardBatch:
    """Return the batch of a whole prompt of `num_rows` tokens over blocks 1, 2, ..."""
    blocks = np.arange(1, -(-num_rows // BLOCK_TOKENS) + 1)[None]
    positions = np.arange(num_rows)
    return ForwardBatch(positions, positions, np.array([num_rows]), BlockTables(blocks, blocks), positions)


def random_ids(length: int, vocab_size: int, seed: int = 0) -> list[int]:
    """Return `length` token ids from a seed."""
    return np.random.default_rng(seed).integers(0, vocab_size, length).tolist()


class LayerByLayer:
    """A shard that is asked for each layer on its own, as one in another process is."""

    def __init__(self, shard: ExpertShard) -> None:
        """Ask `shard`."""
        self._shard = shard

    def submit(self, layer: int, hidden: Tensor, gate: GateOutput) -> Finished:
        """Return the outputs of all chosen experts."""
        return self._shard.submit(layer, hidden, gate)
