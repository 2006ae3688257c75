"""Sampling: by hand, against a plain twin, and with the same bits whoever samples beside a row."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from model.kernels.exact_math import exact_exp
from model.philox import uniform
from model.sampler import SampledToken, SampleRow, SamplingParams, sample

VOCAB = 201_088


def _params(**fields: Any) -> SamplingParams:
    values: dict[str, Any] = {"max_tokens": 10, "seed": 0, **fields}
    return SamplingParams(**values)


def _row(num_tokens: int = 5, num_prompt: int = 3, **fields: Any) -> SampleRow:
    return SampleRow(_params(**fields), [token_id % 3 for token_id in range(num_tokens)], num_prompt)


def _token_ids(logits: Tensor, rows: list[SampleRow]) -> list[int | None]:
    return [token.token_id for token in sample(logits, rows)]


def _mixed_rows(count: int) -> list[SampleRow]:
    """Rows of every kind in turn, each with its own seed and position."""
    kinds: list[dict[str, Any]] = [
        {},
        {"temperature": 1.5, "num_logprobs": 3},
        {"temperature": 0.0},
        {"temperature": 0.7, "top_p": 0.9},
        {"top_k": 20, "num_logprobs": 0},
        {"top_k": 40, "top_p": 0.8, "min_p": 0.01},
        {"min_p": 0.02, "temperature": 2.0},
        {"frequency_penalty": 0.5, "presence_penalty": 0.3, "repetition_penalty": 1.2},
        {"logit_bias": ((1, 3.0), (5, -100.0)), "top_p": 0.5},
    ]
    return [
        SampleRow(_params(seed=1000 + index, **kinds[index % len(kinds)]), list(range(index % 7 + 4)), 2)
        for index in range(count)
    ]


def _logits(num_rows: int, vocab_size: int, seed: int = 0) -> Tensor:
    """Logits as a model has them: few likely tokens, a long tail, and a large block of exactly equal ones."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(num_rows, vocab_size, generator=generator)
    logits[:, : vocab_size // 8] += 3.0 * torch.randn(num_rows, vocab_size // 8, generator=generator)
    logits[:, vocab_size // 2 :] = -1.5
    return logits


@pytest.mark.parametrize("num_rows", [1, 2, 3, 7, 33, 64])
def test_a_row_is_sampled_alike_alone_and_at_any_place_in_any_batch(num_rows: int) -> None:
    logits, rows = _logits(num_rows, 3_001), _mixed_rows(num_rows)
    alone = [sample(logits[row : row + 1], rows[row : row + 1])[0] for row in range(num_rows)]
    assert sample(logits, rows) == alone
    order = list(reversed(range(num_rows)))
    assert sample(logits[order], [rows[row] for row in order]) == [alone[row] for row in order]


def test_rows_of_the_full_vocabulary_do_not_depend_on_their_neighbours() -> None:
    logits, rows = _logits(9, VOCAB), _mixed_rows(9)
    together = sample(logits, rows)
    for row in range(9):
        assert sample(logits[row : row + 1], rows[row : row + 1]) == [together[row]]


def test_the_number_of_threads_changes_no_token() -> None:
    logits, rows = _logits(9, VOCAB, seed=1), _mixed_rows(9)
    num_threads = torch.get_num_threads()
    results: list[list[SampledToken]] = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(sample(logits, rows))
    finally:
        torch.set_num_threads(num_threads)
    assert results[0] == results[1]


def test_the_token_follows_seed_choice_and_position() -> None:
    """All 64 rows are the same flat distribution over 1,024 tokens, so equal draws are unlikely."""
    logits = torch.zeros(1, 1024).expand(4, -1)
    tokens = _token_ids(logits, [_row(), _row(seed=1), _row(choice=1), _row(num_tokens=6)])
    assert len(set(tokens)) == 4
    assert _token_ids(logits[:1], [_row()]) == tokens[:1]
    assert _token_ids(logits[:1], [_row(seed=-1)]) == _token_ids(logits[:1], [_row(seed=2**64 - 1)])


def _slow_token(logits: Tensor, row: SampleRow) -> int:
    """Sample one row the plain way: sort everything, walk everything. No penalties, no bias."""
    params = row.params
    scores = (logits - logits.max()) / torch.tensor(params.temperature, dtype=torch.float32)
    ids = torch.sort(scores, descending=True, stable=True).indices.numpy()
    ordered = scores.numpy()[ids]
    weights = exact_exp(torch.from_numpy(ordered)).numpy().astype(np.float64)
    num_kept = min(params.top_k or ids.size, ids.size)
    running = np.cumsum(weights)
    if params.top_p < 1.0:
        total = running[num_kept - 1] if num_kept < ids.size else _chunked_total(scores)
        enough = np.flatnonzero(running >= params.top_p * total)
        num_kept = min(num_kept, int(enough[0]) + 1 if enough.size else ids.size)
    if params.min_p > 0.0:
        num_kept = min(num_kept, int((ordered >= np.float32(np.log(params.min_p))).sum()))
    draw = uniform(*(np.array([value], np.uint64) for value in (params.seed, params.choice, len(row.token_ids))))[0]
    return int(ids[np.flatnonzero(running > draw * running[num_kept - 1])[0]])


def _chunked_total(scores: Tensor) -> float:
    """Sum the weights in f32 in chunks of 128 along a halving tree, the chunks in f64 one after the other."""
    weights = torch.nn.functional.pad(exact_exp(scores), (0, -scores.numel() % 128)).view(-1, 128)
    while weights.shape[1] > 1:
        half = weights.shape[1] // 2
        weights = weights[:, :half] + weights[:, half:]
    total = 0.0
    for chunk in weights[:, 0].tolist():
        total += chunk
    return total


FILTERS: list[dict[str, Any]] = [
    {"top_p": 0.95},
    {"top_p": 0.3, "temperature": 0.5},
    {"top_p": 0.999, "temperature": 1.7},
    {"top_p": 0.9999999},
    {"top_p": 1e-9},
    {"top_k": 1},
    {"top_k": 7},
    {"top_k": 500, "temperature": 1.3},
    {"top_k": 100_000_000, "top_p": 0.5},
    {"min_p": 0.05},
    {"min_p": 1.0},
    {"min_p": 1e-7, "temperature": 3.0},
    {"top_k": 50, "top_p": 0.9, "min_p": 0.01},
    {"top_p": 0.9, "min_p": 0.2},
]


@pytest.mark.parametrize("filters", FILTERS, ids=str)
@pytest.mark.parametrize("kind", ["long tail", "flat", "peaked", "ties"])
def test_the_fast_way_draws_what_sorting_everything_draws(kind: str, filters: dict[str, Any]) -> None:
    generator = torch.Generator().manual_seed(3)
    logits = {
        "long tail": _logits(8, 40_001),
        "flat": torch.randn(8, 40_001, generator=generator) * 0.01,
        "peaked": torch.randn(8, 40_001, generator=generator) * 8.0,
        "ties": torch.randint(-3, 3, (8, 40_001), generator=generator).float(),
    }[kind]
    rows = [SampleRow(_params(seed=seed, **filters), [0] * (seed + 1), 1) for seed in range(8)]
    assert _token_ids(logits, rows) == [_slow_token(logits[row], rows[row]) for row in range(8)]


@pytest.mark.parametrize(
    "filters", [{"top_p": 0.95, "temperature": 1.5}, {"top_k": 1000}, {"top_p": 0.99, "min_p": 1e-9}]
)
def test_two_hundred_thousand_equal_logits_are_drawn_as_if_sorted(filters: dict[str, Any]) -> None:
    logits = torch.zeros(2, VOCAB)
    logits[:, :600] = _logits(2, 600) + 9.0
    rows = [SampleRow(_params(seed=seed, **filters), [0] * 9, 1) for seed in range(2)]
    assert _token_ids(logits, rows) == [_slow_token(logits[row], rows[row]) for row in range(2)]


def _shares(logits: list[float], num_draws: int = 20_000, **fields: Any) -> list[float]:
    """Return how often each token comes, over as many positions."""
    block = 2_000
    counts = np.zeros(len(logits))
    for start in range(0, num_draws, block):
        rows = [SampleRow(_params(**fields), range(position), 0) for position in range(start, start + block)]
        tokens = _token_ids(torch.tensor([logits]).expand(block, -1), rows)
        counts += np.bincount([token for token in tokens if token is not None], minlength=len(logits))
    return (counts / num_draws).tolist()


LN2 = float(np.log(2.0))
HALVES = [0.0, -LN2, -2 * LN2, -3 * LN2, -3 * LN2]
"""Probabilities 1/2, 1/4, 1/8, 1/16, 1/16."""


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 16]),
        ({"temperature": 0.5}, [32 / 43, 8 / 43, 2 / 43, 0.5 / 43, 0.5 / 43]),
        ({"top_k": 2}, [2 / 3, 1 / 3, 0, 0, 0]),
        ({"top_k": 4}, [8 / 15, 4 / 15, 2 / 15, 1 / 15, 0]),
        ({"top_p": 0.5}, [1, 0, 0, 0, 0]),
        ({"top_p": 0.8}, [4 / 7, 2 / 7, 1 / 7, 0, 0]),
        ({"top_k": 3, "top_p": 0.8}, [2 / 3, 1 / 3, 0, 0, 0]),
        ({"min_p": 0.2}, [4 / 7, 2 / 7, 1 / 7, 0, 0]),
        ({"min_p": 0.25}, [4 / 7, 2 / 7, 1 / 7, 0, 0]),
        ({"min_p": 1.0}, [1, 0, 0, 0, 0]),
        ({"logit_bias": ((1, LN2), (2, -100.0))}, [4 / 9, 4 / 9, 0, 1 / 18, 1 / 18]),
    ],
    ids=str,
)
def test_tokens_come_as_often_as_worked_out_by_hand(fields: dict[str, Any], expected: list[float]) -> None:
    """A share of N draws has standard deviation sqrt(p (1 - p) / N); the bound is four of them, and 0 stays 0.

    top_p 0.8 keeps 1/2 + 1/4 + 1/8 = 7/8; after top_k 3 the shares are 4/7, 2/7, 1/7 and the first two reach 6/7.
    """
    for share, probability in zip(_shares(HALVES, **fields), expected, strict=True):
        assert abs(share - probability) <= 4 * np.sqrt(probability * (1 - probability) / 20_000)


def test_the_first_best_token_wins_without_temperature() -> None:
    logits = torch.tensor([[0.0, 2.0, 2.0, 1.0], [5.0, 5.0, 5.0, 5.0], [-1.0, -3.0, -2.0, -0.5]])
    assert _token_ids(logits, [_row(temperature=0.0)] * 3) == [1, 0, 3]
    assert _token_ids(logits, [_row(temperature=9e-6)] * 3) == [1, 0, 3]


def test_the_smallest_temperature_that_divides_still_gives_the_best_token() -> None:
    assert _token_ids(torch.tensor([[1.0, 1.5, -1e30]]), [_row(temperature=1.1e-5)]) == [1]


def test_an_impossible_token_never_comes() -> None:
    """Token 0 and the last one have weight zero: they stand where a rounding error at either end would lead."""
    logits = torch.full((500, 130), float("-inf"))
    logits[:, 1:129] = 0.0
    rows = [SampleRow(_params(seed=seed), [0], 1) for seed in range(500)]
    tokens = _token_ids(logits, rows)
    assert 0 not in tokens
    assert 129 not in tokens


def test_a_row_without_a_sound_logit_gives_no_token_and_spoils_no_other() -> None:
    logits = torch.zeros(4, 300)
    logits[1, 7] = float("nan")
    logits[2] = float("-inf")
    logits[3, 5] = float("inf")
    kinds: list[dict[str, Any]] = [{}, {"temperature": 0.0}, {"top_p": 0.5}, {"num_logprobs": 2}]
    for fields in kinds:
        tokens = sample(logits, [_row(**fields)] * 4)
        assert tokens[0] == sample(logits[:1], [_row(**fields)])[0]
        assert tokens[1:] == [SampledToken(None)] * 3


def test_penalties_move_the_logits_of_what_was_seen() -> None:
    """Seen: prompt 0, 0, 1; output 2, 2, 3. Greedy choice shows which logit is largest after each penalty.

    frequency 0.6: token 2 falls by 1.2, token 3 by 0.6. presence 0.6: both by 0.6. repetition 2: positive logits of
    tokens 0 to 3 are halved, negative ones doubled.
    """

    def best(logits: list[float], **fields: Any) -> int | None:
        row = SampleRow(_params(temperature=0.0, **fields), [0, 0, 1, 2, 2, 3], 3)
        return _token_ids(torch.tensor([logits]), [row])[0]

    assert best([0.0, 0.0, 1.0, 0.5, -9.0], frequency_penalty=0.6) == 0
    assert best([-0.15, -9.0, 1.0, 0.5, -9.0], frequency_penalty=0.6) == 3
    assert best([0.0, 0.0, 1.0, 0.5, 0.3], presence_penalty=0.6) == 2
    assert best([2.0, 1.0, 1.0, 1.0, 1.1], repetition_penalty=2.0) == 4
    assert best([-0.2, -9.0, -9.0, -9.0, -0.3], repetition_penalty=2.0) == 4
    assert best([1.0, 0.0, 3.0, 0.0, 2.0], logit_bias=((4, 1.5),)) == 4


def test_blocked_tokens_do_not_come() -> None:
    row = SampleRow(_params(temperature=0.0), [0], 1, blocked_ids=(2, 1))
    logits = torch.tensor([[0.0, 5.0, 9.0, 0.5]])
    assert _token_ids(logits, [row]) == [3]
    assert _token_ids(logits, [replace(row, blocked_ids=(0, 1, 2, 3))]) == [None]


def test_sampling_leaves_the_logits_as_they_are() -> None:
    logits = _logits(9, 1_000)
    before = logits.clone()
    sample(logits, _mixed_rows(9))
    assert torch.equal(logits, before)


def test_no_rows_give_no_tokens() -> None:
    assert sample(torch.zeros(0, 10), []) == []


def test_logprobs_are_those_of_the_unchanged_logits() -> None:
    """Against f64 log-softmax: f32 exponentials and a tree sum of 3,001 terms stay within 1e-5."""
    logits = _logits(4, 3_001)
    row_asking = _row(temperature=1.9, top_k=3, frequency_penalty=1.0, logit_bias=((7, 50.0),), num_logprobs=5)
    reference = torch.log_softmax(logits.double(), dim=1)
    for row, token in enumerate(sample(logits, [row_asking] * 4)):
        assert token.token_id == 7
        assert token.logprob is not None
        assert token.logprob.token_id == 7
        assert token.logprob.logprob == pytest.approx(reference[row, 7].item(), abs=1e-5)
        best = torch.topk(reference[row], 5)
        assert [token_id for token_id, _ in token.logprob.top] == best.indices.tolist()
        assert [value for _, value in token.logprob.top] == pytest.approx(best.values.tolist(), abs=1e-5)


def test_equal_logprobs_stand_in_the_order_of_their_ids() -> None:
    token = sample(torch.tensor([[1.0, 2.0, 2.0, 2.0, 1.0]]), [_row(temperature=0.0, num_logprobs=4)])[0]
    assert token.logprob is not None
    assert [token_id for token_id, _ in token.logprob.top] == [1, 2, 3, 0]


def test_no_best_tokens_are_listed_unless_asked_for() -> None:
    tokens = sample(torch.zeros(2, 10), [_row(num_logprobs=0), _row()])
    assert tokens[0].logprob is not None
    assert tokens[0].logprob.top == ()
    assert tokens[0].logprob.logprob == pytest.approx(-np.log(10.0), abs=1e-6)
    assert tokens[1].logprob is None
