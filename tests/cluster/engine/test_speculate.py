"""Guessing from a text's own n-grams, and which guesses are worth a row: by hand, blocks of 4 tokens, a window of 6."""

from typing import Any

import pytest

from cluster.engine.blocks import BlockCount, BlockGeometry
from cluster.engine.scheduler import Chunk, StepLimits, schedule
from cluster.engine.sequence import Sequence
from cluster.engine.speculate import Guess, PromptLookup, num_confirmed, with_drafts
from tests.cluster.engine.driver import request

GEOMETRY = BlockGeometry(block_tokens=4, window=6)
MANY = BlockCount(100, 100)


def _guess(token_ids: list[int], most: int = 4, ngram: int = 2) -> tuple[int, ...]:
    return PromptLookup(ngram).guess(token_ids, most).token_ids


def test_the_guess_is_what_followed_the_last_tokens_before() -> None:
    assert _guess([1, 2, 3, 4, 5, 6, 1, 2]) == (3, 4, 5, 6)
    assert _guess([1, 2, 3, 4, 5, 6, 1, 2], most=2) == (3, 4)


def test_the_latest_place_counts() -> None:
    assert _guess([1, 2, 8, 1, 2, 9, 1, 2], most=1) == (9,)


def test_what_never_stood_before_gives_no_guess() -> None:
    assert _guess([1, 2, 3, 4]) == ()
    assert _guess([2, 1, 3, 1, 2]) == ()
    assert _guess([1, 2]) == ()
    assert _guess([1]) == ()


def test_a_guess_that_reaches_the_texts_end_begins_again() -> None:
    assert _guess([7, 1, 2, 1, 2], most=5) == (1, 2, 1, 2, 1)
    assert _guess([5, 5, 5], most=3) == (5, 5, 5)


def test_a_text_that_grows_gives_the_same_guesses_as_one_read_at_once() -> None:
    text = [1, 2, 3, 1, 2, 4, 1, 2, 3, 1, 2, 2, 2, 2, 4, 1, 2, 4, 1]
    growing = PromptLookup(2)
    for stop in range(1, len(text) + 1):
        assert growing.guess(text[:stop], 4).token_ids == _guess(text[:stop])


def test_reading_on_takes_no_longer_in_a_long_text() -> None:
    """Only what is new is read: the old part of this text may be gone."""

    class Forgetful(list[int]):
        def __getitem__(self, key: Any) -> Any:
            first = key.start if isinstance(key, slice) else key
            assert first < 0 or first >= len(self) - 10, f"place {key} of {len(self)} was read"
            return super().__getitem__(key)

    lookup, text = PromptLookup(3), [1, 2, 3] * 100
    lookup.guess(text, 4)
    for _ in range(20):
        text.append(9)
        lookup.guess(Forgetful(text), 1)


def test_acceptance_follows_what_came_whether_or_not_it_was_drafted() -> None:
    """From 0, each hit takes away a quarter of what is missing, a miss a quarter of what is there."""
    lookup, text = PromptLookup(2), [1, 2, 3, 4, 1, 2]
    assert lookup.guess(text, 4) == Guess((3, 4, 1, 2), 0.0)
    lookup.learn([3])
    text += [3]
    assert lookup.guess(text, 4).acceptance == 0.25
    lookup.learn([4, 1, 7])
    assert lookup.guess([*text, 4, 1, 7], 4).token_ids == ()
    lookup.learn([5])
    assert lookup.guess([*text, 4, 1, 7, 5], 4).acceptance == pytest.approx((1 - 0.75**3) * 0.75)


def _drafts(
    sizes: list[tuple[int, int]],
    guesses: list[Guess],
    row_cost_fraction: float,
    max_rows: int = 16,
    free: BlockCount = MANY,
) -> list[int]:
    """Return how many tokens are drafted for sequences of (known, computed) tokens."""
    running: list[Sequence] = []
    for arrival, (num_known, num_computed) in enumerate(sizes):
        running.append(Sequence(request(f"s{arrival}", [1] * num_known), arrival))
        running[-1].num_computed = num_computed
    step = schedule(running, [], free, GEOMETRY, StepLimits(max_rows, 8))
    chunks = with_drafts(step, dict(enumerate(guesses)), GEOMETRY, row_cost_fraction)
    assert sum(chunk.num_rows for chunk in chunks) <= max_rows
    return [len(chunk.draft) for chunk in chunks]


SIX = (1, 2, 3, 4, 5, 6)


def test_a_draft_goes_on_while_it_raises_tokens_a_second() -> None:
    """A row costs half a step: 1, 1.5, 2, 2.5 steps for 1, 2, 3, 4 rows.

    Acceptance 0.9: 1 token in 1, 1.9 in 1.5, 2.71 in 2, 3.44 in 2.5 (1.376 a step), 4.1 in 3 (1.365): three drafts.
    """
    assert _drafts([(9, 8)], [Guess(SIX, 0.9)], row_cost_fraction=0.5) == [3]
    assert _drafts([(9, 8)], [Guess(SIX, 0.51)], row_cost_fraction=0.5) == [1]
    assert _drafts([(9, 8)], [Guess(SIX, 0.5)], row_cost_fraction=0.5) == [0]
    assert _drafts([(9, 8)], [Guess(SIX, 1.0)], row_cost_fraction=0.5) == [6]
    assert _drafts([(9, 8)], [Guess(SIX, 0.01)], row_cost_fraction=0.0) == [6]


def test_the_fuller_a_step_the_surer_a_guess_must_be() -> None:
    """Four rows take 2.5 steps: a fifth adds 0.5 / 2.5 of the time and 0.7 / 4 of the tokens."""
    others = [Guess()] * 3
    assert _drafts([(9, 8)], [Guess((1,), 0.7)], row_cost_fraction=0.5) == [1]
    assert _drafts([(9, 8)] * 4, [Guess((1,), 0.7), *others], row_cost_fraction=0.5) == [0, 0, 0, 0]
    assert _drafts([(9, 8)] * 4, [Guess((1,), 0.81), *others], row_cost_fraction=0.5) == [1, 0, 0, 0]


def test_drafts_take_what_budget_and_blocks_are_left() -> None:
    """The second sequence stands at the end of a block: without a free one it has no room for a draft."""
    sure = [Guess(SIX, 1.0), Guess(SIX, 1.0)]
    assert _drafts([(9, 8), (9, 8)], sure, 0.5, max_rows=7) == [5, 0]
    assert _drafts([(10, 9), (8, 7)], sure, 0.5, free=BlockCount(0, 5)) == [2, 0]
    assert _drafts([(10, 9), (8, 7)], sure, 0.5, free=BlockCount(1, 5)) == [6, 0]
    assert _drafts([(10, 9), (8, 7)], sure, 0.5, free=BlockCount(2, 2)) == [6, 4]


def test_a_prompt_that_is_not_yet_computed_drafts_nothing() -> None:
    one = Sequence(request("a", [1] * 9), 0)
    assert Chunk(one, 0, 8).num_samples == 0
    assert Chunk(one, 8, 1, (4, 5)).num_samples == 3


def test_tokens_are_kept_up_to_the_first_that_the_draft_has_wrong() -> None:
    assert num_confirmed((), [5]) == 1
    assert num_confirmed((5, 6), [5, 6, 7]) == 3
    assert num_confirmed((5, 6), [5, 7, 7]) == 2
    assert num_confirmed((5, 6), [4, 6, 7]) == 1
    assert num_confirmed((5, 6), [5, None, None]) == 2
