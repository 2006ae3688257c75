"""Masks: which tokens may come, and that a masked row's token depends on nothing but the row."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from model.sampler import SampleRow, SamplingParams, sample
from model.token_mask import Words, allow, allowed_ids, apply_mask, mask_of, num_words

VOCAB_SIZE = 1_003


@dataclass
class FixedGuide:
    """Allows the same tokens everywhere."""

    token_ids: tuple[int, ...]

    def mask(self, ahead: Sequence[int] = ()) -> Words:
        return mask_of(self.token_ids, VOCAB_SIZE)


@pytest.mark.parametrize("ids", [(), (0,), (31, 32, 33), (VOCAB_SIZE - 1,), tuple(range(0, VOCAB_SIZE, 7))])
def test_a_mask_allows_what_it_was_made_of(ids: tuple[int, ...]) -> None:
    words = mask_of(ids, VOCAB_SIZE)

    assert words.shape == (num_words(VOCAB_SIZE),) == (32,)
    assert allowed_ids(words).tolist() == list(ids)


def test_tokens_can_be_allowed_later_and_those_beyond_are_left_out() -> None:
    words = mask_of((1, VOCAB_SIZE, 10**6), VOCAB_SIZE)
    allow(words, (64, 95, 10**6))

    assert allowed_ids(words).tolist() == [1, 64, 95]


@pytest.mark.parametrize("vocab_size", [1, 31, 97, VOCAB_SIZE, 2_000])
def test_a_row_is_masked_and_the_others_are_not(vocab_size: int) -> None:
    logits = torch.zeros((3, vocab_size))

    apply_mask(logits, 1, mask_of((0, 40, 1_002), VOCAB_SIZE))

    finite = np.flatnonzero(torch.isfinite(logits[1]).numpy()).tolist()
    assert finite == [token_id for token_id in (0, 40, 1_002) if token_id < vocab_size]
    assert torch.isfinite(logits[[0, 2]]).all()


@pytest.mark.parametrize("vocab_size", [6_400, 6_411])
@pytest.mark.parametrize("mask_size", [3_000, 6_400, 9_000])
@pytest.mark.parametrize("step", [1, 2, 1_000])
@pytest.mark.parametrize("is_inverted", [False, True])
def test_many_and_few_tokens_are_blocked_alike(vocab_size: int, mask_size: int, step: int, is_inverted: bool) -> None:
    """Hundreds of words, of which few or many have something to say."""
    logits = torch.arange(float(vocab_size)).repeat(2, 1)
    allowed = {token_id for token_id in range(mask_size) if (token_id % step == 0) is not is_inverted}

    apply_mask(logits, 1, mask_of(allowed, mask_size))

    assert logits[0].tolist() == list(range(vocab_size))
    assert logits[1].tolist() == [
        float(token_id) if token_id in allowed else float("-inf") for token_id in range(vocab_size)
    ]


SETTINGS = [
    {"temperature": 0.0},
    {"temperature": 1.5},
    {"top_k": 40},
    {"top_p": 0.9},
    {"min_p": 0.3},
    {"top_k": 40, "top_p": 0.9, "min_p": 0.1, "temperature": 0.7},
    {"logit_bias": ((500, 100.0),), "frequency_penalty": 2.0, "repetition_penalty": 1.5},
]


@pytest.mark.parametrize("fields", SETTINGS, ids=str)
@pytest.mark.parametrize("allowed", [(3,), (3, 700, 1_002), tuple(range(0, 1_003, 2))])
def test_a_token_is_an_allowed_one_whatever_stands_beside_its_row(
    fields: dict[str, float], allowed: tuple[int, ...]
) -> None:
    logits = torch.from_numpy(np.random.default_rng(4).normal(size=(7, VOCAB_SIZE)).astype(np.float32) * 3)
    params = [SamplingParams(max_tokens=9, seed=seed, **fields) for seed in range(7)]  # pyright: ignore[reportArgumentType]
    rows = [
        SampleRow(one, [5, 6, 7], 1, guide=FixedGuide(allowed) if place % 2 == 0 else None)
        for place, one in enumerate(params)
    ]

    together = [one.token_id for one in sample(logits, rows)]
    alone = [sample(logits[place : place + 1], [row])[0].token_id for place, row in enumerate(rows)]

    assert together == alone
    assert set(together[::2]) <= set(allowed)


def test_what_is_blocked_stays_so_unless_nothing_else_is_allowed() -> None:
    logits = torch.zeros((2, VOCAB_SIZE))
    params = SamplingParams(max_tokens=9, seed=1)
    rows = [SampleRow(params, [1], 1, (3,), guide=FixedGuide(allowed)) for allowed in ((3, 4), (3,))]

    assert [one.token_id for one in sample(logits, rows)] == [4, 3]


def test_a_mask_that_allows_nothing_gives_no_token() -> None:
    rows = [SampleRow(SamplingParams(max_tokens=9, seed=1), [1], 1, guide=FixedGuide(()))]

    assert sample(torch.zeros((1, VOCAB_SIZE)), rows)[0].token_id is None
