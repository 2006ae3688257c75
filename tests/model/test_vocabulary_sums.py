"""Sums over the vocabulary: the same bits whoever is beside a row, and picks that never fall off an edge."""

import numpy as np
import pytest
import torch
from torch import Tensor

from model.vocabulary_sums import CHUNK, Scores, pick, running_sums
from tests.support.row_independence import find_dependence


def _logits(num_rows: int, vocab_size: int) -> Tensor:
    return torch.randn(num_rows, vocab_size, generator=torch.Generator().manual_seed(2)) * 4.0


def _sums(rows: Tensor) -> Tensor:
    temperatures = np.full(rows.shape[0], 1.3, dtype=np.float32)
    return torch.from_numpy(running_sums(Scores(rows, rows.amax(dim=1).numpy(), temperatures)))


def _careless_sums(rows: Tensor) -> Tensor:
    scores = (rows - rows.amax(dim=1, keepdim=True)) / 1.3
    return torch.exp(scores).sum(dim=1, keepdim=True)


@pytest.mark.parametrize("vocab_size", [CHUNK, 1_001, 33_001])
def test_a_rows_sums_do_not_depend_on_the_rows_beside_it(vocab_size: int) -> None:
    assert find_dependence(_sums, _logits(64, vocab_size)) is None


def test_that_check_finds_what_a_plain_sum_does() -> None:
    assert find_dependence(_careless_sums, _logits(64, 201_088)) is not None


def test_the_sums_are_those_of_the_weights() -> None:
    """Each of V = 1,001 f32 weights is within 2e-7 relative, a tree of 128 adds 7 roundings of 6e-8."""
    logits = _logits(3, 1_001)
    scores = Scores(logits, logits.amax(dim=1).numpy())
    expected = torch.exp(scores.whole().double()).sum(dim=1).numpy()
    assert running_sums(scores).shape == (3, 8)
    assert running_sums(scores)[:, -1] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("vocab_size", [1, 127, CHUNK, 300])
def test_the_largest_draw_still_picks_a_token_that_can_come(vocab_size: int) -> None:
    """The tree's f32 sum is often above the walk's: in some of 500 rows the target lies past the walk's end."""
    logits = _logits(500, vocab_size)
    logits[:, vocab_size // 2 + 1 :] = -torch.inf
    tokens = pick(Scores(logits, logits.amax(dim=1).numpy()), np.full(500, np.nextafter(1.0, 0.0)))
    assert tokens.min() >= 0
    assert tokens.max() <= vocab_size // 2
    assert torch.isfinite(logits[torch.arange(500), torch.from_numpy(tokens)]).all()


def test_the_smallest_draw_picks_the_first_token_that_can_come() -> None:
    logits = torch.full((1, 3 * CHUNK), -torch.inf)
    logits[0, [CHUNK + 5, CHUNK + 6, 2 * CHUNK]] = 0.0
    scores = Scores(logits, np.zeros(1, dtype=np.float32))
    assert pick(scores, np.array([0.0])).tolist() == [CHUNK + 5]
    assert pick(scores, np.array([1 / 3])).tolist() == [CHUNK + 6]
    assert pick(scores, np.array([0.99])).tolist() == [2 * CHUNK]
