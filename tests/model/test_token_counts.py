"""Counts kept up token by token are those of the whole text."""

import random

import torch

from model.penalties import counts_of, penalize
from model.sampling_params import SamplingParams
from model.token_counts import TokenCounts
from tests.support.row_independence import same_bits


def _as_dict(counts: TokenCounts, ahead: tuple[int, ...] = ()) -> dict[int, float]:
    ids, times = counts.after(ahead)
    assert len(set(ids.tolist())) == ids.size
    return dict(zip(ids.tolist(), times.tolist(), strict=True))


def test_only_the_output_is_counted_and_the_prompt_is_known() -> None:
    assert _as_dict(TokenCounts([3, 5, 3], [5, 7, 7])) == {3: 0, 5: 1, 7: 2}
    assert _as_dict(TokenCounts([], [])) == {}


def test_tokens_ahead_are_counted_without_a_trace() -> None:
    counts = TokenCounts([3, 5], [5])
    assert _as_dict(counts, (3, 9, 9)) == {3: 1, 5: 1, 9: 2}
    assert _as_dict(counts) == {3: 0, 5: 1}


def test_tokens_that_come_one_by_one_count_as_those_that_come_at_once() -> None:
    chance = random.Random(1)
    prompt, output = ([chance.randrange(60) for _ in range(size)] for size in (20, 300))
    growing = TokenCounts(prompt, output[:1])
    for stop in range(2, len(output) + 1):
        assert _as_dict(growing, tuple(output[stop - 1 : stop + 3])) == _as_dict(
            TokenCounts(prompt, output[: stop + 3])
        )
        growing.add(output[stop - 1])
    assert _as_dict(growing) == _as_dict(TokenCounts(prompt, output))


def test_the_order_of_counting_changes_no_bit_of_a_penalty() -> None:
    params = SamplingParams(
        max_tokens=9, seed=0, repetition_penalty=1.3, frequency_penalty=0.37, presence_penalty=-0.11
    )
    text = [random.Random(2).randrange(40) for _ in range(80)]
    growing = counts_of(params, text[:30], 25)
    for token_id in text[30:70]:
        growing.add(token_id)
    logits = torch.randn(2, 50, generator=torch.Generator().manual_seed(3))
    logits[1] = logits[0]
    penalize(logits, 0, params, *growing.after(tuple(text[70:])))
    penalize(logits, 1, params, *counts_of(params, text, 25).after())
    assert same_bits(logits[0], logits[1])


def test_the_prompt_counts_for_repetition_alone() -> None:
    plain = SamplingParams(max_tokens=9, seed=0, frequency_penalty=1.0)
    repetition = SamplingParams(max_tokens=9, seed=0, repetition_penalty=1.1)
    assert _as_dict(counts_of(plain, [1, 2, 3], 2)) == {3: 1}
    assert _as_dict(counts_of(repetition, [1, 2, 3], 2)) == {1: 0, 2: 0, 3: 1}
