"""Oracle: a drafter that knows what texts will say, and lies now and then; and the events it must not change."""

import random
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from cluster.engine.sequence import FinishReason, SequenceRequest, TokenEvent
from cluster.engine.speculate import Guess, SpeculationLimits
from model.sampling_params import TokenLogprob
from tests.cluster.engine.driver import Driver, hand_limits

ALWAYS = SpeculationLimits(max_draft_tokens=5, ngram_tokens=1, row_cost_fraction=0.0)
"""Rows are free: whatever is guessed is drafted."""


class Oracle:
    """Guesses from a list of whole texts; each token is a lie with a chance of a quarter."""

    def __init__(self, texts: Iterable[Sequence[int]], chance: random.Random) -> None:
        self._texts = list(texts)
        self._chance = chance

    def guess(self, token_ids: list[int], most: int) -> Guess:
        """Return the next tokens of some text that begins so, more or less."""
        size = len(token_ids)
        known = [text for text in self._texts if list(text[:size]) == token_ids]
        following = list(self._chance.choice(known)[size : size + most]) if known else []
        lies = [self._chance.randrange(97) if self._chance.random() < 0.25 else token for token in following]
        return Guess(tuple(lies), 1.0)

    def learn(self, token_ids: Sequence[int]) -> None:
        """Know it already."""


class Whole(NamedTuple):
    """What a request gives when it is left alone."""

    tokens: list[tuple[int, TokenLogprob | None, str]]
    """Token, logprob, digest of its logits."""
    finish_reason: FinishReason | None
    stop_reason: int | str | None

    @property
    def token_ids(self) -> list[int]:
        """Return the output."""
        return [token_id for token_id, _, _ in self.tokens]


def told_by(event: TokenEvent) -> list[tuple[int, TokenLogprob | None, str]]:
    """Return an event's tokens with all that was said of each."""
    logprobs = event.logprobs or (None,) * len(event.token_ids)
    return list(zip(event.token_ids, logprobs, event.digests, strict=True))


def whole(one: SequenceRequest, **limits: Any) -> Whole:
    """Return what a request gives in an engine of its own that never guesses."""
    driver = Driver(hand_limits(has_logit_digests=True, **limits))
    driver.admit(one)
    driver.finish()
    ending = driver.ending(one.sequence_id)
    tokens = [each for event in driver.events for each in told_by(event)]
    return Whole(tokens, ending.finish_reason, ending.stop_reason)


def assert_told(event: TokenEvent, expected: Whole) -> None:
    """Fail unless an event says what a request left alone says at its place, and ends where that ends."""
    stop = event.index + len(event.token_ids)
    assert told_by(event) == expected.tokens[event.index : stop], (event, expected)
    if event.finish_reason in {FinishReason.STOP, FinishReason.LENGTH}:
        assert stop == len(expected.tokens), (event, expected)
        assert (event.finish_reason, event.stop_reason) == (expected.finish_reason, expected.stop_reason)
