"""Paged attention: against float64 over the whole matrix, row by row, and blind to what was never stored."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from model.batch import BlockTables, ForwardBatch, IntArray
from model.kernels.attention import AttentionPlan, paged_attention, paged_attention_torch
from model.kernels.attention_tiles import TileShape
from tests.support.row_independence import same_bits

BLOCK_TOKENS = 16
HEAD_DIM = 16
Backend = Callable[[Tensor, Tensor, Tensor, AttentionPlan, Tensor, float], Tensor]

both_backends = pytest.mark.parametrize("backend", [paged_attention, paged_attention_torch])


@dataclass(frozen=True)
class Case:
    """Sequences by (tokens known, rows in this step), and the head counts."""

    sequences: tuple[tuple[int, int], ...]
    num_heads: int = 4
    num_kv_heads: int = 2
    window: int | None = None


CASES = [
    Case(((1, 1),)),
    Case(((129, 1), (7, 7), (300, 33)), window=128),
    Case(((129, 1), (7, 7), (300, 33))),
    Case(((260, 260),), num_heads=14, window=7),
    Case(((260, 131), (5, 1)), num_heads=5, num_kv_heads=1, window=130),
    Case(((40, 17),), num_heads=32, num_kv_heads=1),
]


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Paged:
    """Keys and values of sequences scattered over blocks, NaN wherever nothing was stored."""

    def __init__(self, case: Case, backend: Backend = paged_attention, garbage: float = torch.nan) -> None:
        """Store everything the sequences know, the rows of this step included."""
        self.case = case
        self.backend = backend
        kv_shape = (case.num_kv_heads, HEAD_DIM)
        longest = max(known for known, _ in case.sequences)
        per_sequence = -(-longest // BLOCK_TOKENS)
        num_blocks = 1 + per_sequence * len(case.sequences)
        self.table: IntArray = np.random.default_rng(0).permutation(np.arange(1, num_blocks)).reshape(-1, per_sequence)
        self.keys, self.values = (torch.full((num_blocks, BLOCK_TOKENS, *kv_shape), garbage) for _ in range(2))
        self.stored: list[tuple[Tensor, Tensor]] = []
        for index, (known, _) in enumerate(case.sequences):
            pair = random(known, *kv_shape, seed=2 * index), random(known, *kv_shape, seed=2 * index + 1)
            for position in range(known):
                block, offset = self.table[index, position // BLOCK_TOKENS], position % BLOCK_TOKENS
                self.keys[block, offset], self.values[block, offset] = pair[0][position], pair[1][position]
            self.stored.append(pair)
        self.queries = [
            random(rows, case.num_heads, HEAD_DIM, seed=100 + index) for index, (_, rows) in enumerate(case.sequences)
        ]
        self.sinks = random(case.num_heads, seed=7)

    def attend(self, picked: list[int]) -> list[Tensor]:
        """Return the kernel's output for the rows of some sequences in one step."""
        sequences = [self.case.sequences[index] for index in picked]
        rows = np.array([rows for _, rows in sequences])
        table = self.table[picked]
        batch = ForwardBatch(
            token_ids=np.zeros(int(rows.sum()), dtype=np.int64),
            positions=np.concatenate([np.arange(known - rows, known) for known, rows in sequences]),
            num_rows=rows,
            block_tables=BlockTables(table, table),
            logit_rows=np.arange(0),
        )
        shape = TileShape(self.case.num_heads // self.case.num_kv_heads, BLOCK_TOKENS, self.case.window, "cpu")
        plan = AttentionPlan(batch, table, shape)
        queries = torch.cat([self.queries[index] for index in picked])
        out = self.backend(queries, self.keys, self.values, plan, self.sinks, HEAD_DIM**-0.5)
        return list(out.split(rows.tolist()))


def naive_attention(paged: Paged, index: int) -> Tensor:
    """Return float64 attention of one sequence's rows over the whole matrix, the sink as one more column."""
    case = paged.case
    known, rows = case.sequences[index]
    repeats = case.num_heads // case.num_kv_heads
    keys, values = (part.double().repeat_interleave(repeats, dim=1) for part in paged.stored[index])
    scores = torch.einsum("qhd,khd->hqk", paged.queries[index].double(), keys) * HEAD_DIM**-0.5
    query_positions, key_positions = torch.arange(known - rows, known)[:, None], torch.arange(known)[None]
    hidden = key_positions > query_positions
    if case.window is not None:
        hidden |= key_positions <= query_positions - case.window
    scores = scores.masked_fill(hidden, -torch.inf)
    column = paged.sinks.double()[:, None, None].expand(-1, rows, 1)
    weights = torch.cat((scores, column), dim=-1).softmax(-1)[..., :-1]
    return torch.einsum("hqk,khd->qhd", weights, values)


@both_backends
@pytest.mark.parametrize("case", CASES)
def test_attention_matches_float64(case: Case, backend: Backend) -> None:
    paged = Paged(case, backend)
    outputs = paged.attend(list(range(len(case.sequences))))
    for index, output in enumerate(outputs):
        torch.testing.assert_close(output.double(), naive_attention(paged, index), rtol=0, atol=2e-6)


@both_backends
@pytest.mark.parametrize("case", CASES)
def test_attention_is_row_independent_of_the_sequences_beside(case: Case, backend: Backend) -> None:
    paged = Paged(case, backend)
    together = paged.attend(list(range(len(case.sequences))))
    backwards = paged.attend(list(range(len(case.sequences)))[::-1])[::-1]
    for index in range(len(case.sequences)):
        assert same_bits(paged.attend([index])[0], together[index])
        assert same_bits(backwards[index], together[index])


@both_backends
@pytest.mark.parametrize("case", [CASES[2], CASES[3]])
def test_attention_is_row_independent_of_where_a_chunk_began(case: Case, backend: Backend) -> None:
    """Every row computed as a step of its own: decode and prefill agree bit for bit."""
    paged = Paged(case, backend)
    whole = paged.attend([len(case.sequences) - 1])[0]
    known, rows = case.sequences[-1]
    for row in range(0, rows, 5):
        single = Paged(
            Case((*case.sequences[:-1], (known, rows)), case.num_heads, case.num_kv_heads, case.window), backend
        )
        cut = known - rows + row + 1
        object.__setattr__(single.case, "sequences", (*case.sequences[:-1], (cut, 1)))
        single.queries[-1] = single.queries[-1][row : row + 1]
        assert same_bits(single.attend([len(case.sequences) - 1])[0], whole[row : row + 1])


@both_backends
@pytest.mark.parametrize("garbage", [torch.nan, torch.inf, 1e30])
def test_what_was_never_stored_changes_nothing(garbage: float, backend: Backend) -> None:
    clean, dirty = Paged(CASES[1], backend, 0.0), Paged(CASES[1], backend, garbage)
    for left, right in zip(clean.attend([0, 1, 2]), dirty.attend([0, 1, 2]), strict=True):
        assert same_bits(left, right)


@both_backends
def test_blocks_that_left_the_window_are_never_read(backend: Backend) -> None:
    """A freed block of a sliding layer is 0 in the table; block 0 holds NaN here."""
    paged = Paged(Case(((300, 1),), window=128), backend)
    whole = paged.attend([0])[0]
    paged.table[0, : (300 - 128) // BLOCK_TOKENS] = 0
    assert same_bits(paged.attend([0])[0], whole)


@both_backends
def test_the_sink_takes_its_share_once(backend: Backend) -> None:
    """One key with score 0 and a sink of ln 3: the key gets 1 / (1 + 3), whatever the number of splits."""
    paged = Paged(Case(((129, 1),), num_heads=1, num_kv_heads=1), backend)
    paged.queries[0] = torch.zeros(1, 1, HEAD_DIM)
    paged.sinks = torch.tensor([np.log(3 * 129.0)], dtype=torch.float32)
    mean = paged.stored[0][1].mean(dim=0)
    torch.testing.assert_close(paged.attend([0])[0][0], mean / 4, rtol=1e-5, atol=1e-6)
