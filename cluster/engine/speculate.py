"""Prompt lookup: guess the next tokens from what came when the last few stood in the text before.

    known    … the cat sat on the mat. Then the cat │ sat on the      ◀ the guess: what followed `the cat`
    step     rows for `cat` and for the guess; each row is sampled as if the guess before it were right
    kept     sampled tokens up to the first that is not the guess: those that one row a step would have given

A guess changes speed, never tokens: what a row samples depends on the tokens before it, and a row is kept only if
those were sampled too. Nothing here touches a tensor.

(Saxena, "Prompt Lookup Decoding", 2023: guesses from the text's own n-grams. The rule for their length is ours.)
"""

from collections.abc import Callable, Mapping
from collections.abc import Sequence as Ordered
from dataclasses import dataclass, replace
from typing import Protocol

from cluster.engine.blocks import BlockGeometry
from cluster.engine.scheduler import Chunk, Schedule

_LEARNING_SHARE = 0.25
"""How much the newest comparison weighs in a sequence's acceptance."""


@dataclass(frozen=True, slots=True)
class SpeculationLimits:
    """How far ahead an engine guesses."""

    max_draft_tokens: int = 0
    """Of one sequence in one step; 0 for never."""
    ngram_tokens: int = 3
    """So many last tokens must have stood in the text before."""
    row_cost_fraction: float = 0.5
    """Time that another row adds to a step of one row, as a share of it.

    For gpt-oss-20b on one core that was 0.37 on average over up to 20 rows: a row reads experts of its own. Drafts
    must be worth more than they cost, so that a wrong estimate loses little.
    """


@dataclass(frozen=True, slots=True)
class Guess:
    """Tokens that may come next, and the chance of each if those before it came."""

    token_ids: tuple[int, ...] = ()
    acceptance: float = 0.0


class Drafter(Protocol):
    """Guesses for one sequence; `PromptLookup` is one."""

    def guess(self, token_ids: list[int], most: int) -> Guess:
        """Return up to `most` tokens that may follow `token_ids`, which only grows from call to call."""
        ...

    def learn(self, token_ids: Ordered[int]) -> None:
        """Take the tokens that did follow."""
        ...


class PromptLookup:
    """Guesses from one sequence's own text, and keeps count of how good they were.

    The count needs no draft: a guess that nothing is spent on is compared all the same. So a sequence that repeats
    nothing, or whose repetitions do not last, costs a look-up a step and no row.
    """

    def __init__(self, ngram_tokens: int) -> None:
        """Start without any text."""
        self._ngram_tokens = ngram_tokens
        self._next_places: dict[tuple[int, ...], int] = {}
        self._num_indexed = ngram_tokens
        self._guessed: tuple[int, ...] = ()
        self._acceptance = 0.0

    def guess(self, token_ids: list[int], most: int) -> Guess:
        """Return up to `most` tokens that followed when the last n-gram stood in the text before.

        Takes time by the tokens that are new, not by the text's length.
        """
        place = self._find(token_ids)
        self._guessed = () if place is None else _continued(token_ids, place, most)
        return Guess(self._guessed, self._acceptance)

    def learn(self, token_ids: Ordered[int]) -> None:
        """Compare the last guess with the tokens that came, up to the first that it got wrong."""
        for guessed, came in zip(self._guessed, token_ids, strict=False):
            self._acceptance += _LEARNING_SHARE * ((guessed == came) - self._acceptance)
            if guessed != came:
                break
        self._guessed = ()

    def _find(self, token_ids: list[int]) -> int | None:
        """Return where the text went on after the latest earlier place of its last n-gram."""
        size, start = self._ngram_tokens, self._num_indexed
        if len(token_ids) > start:
            new = token_ids[start - size :]
            ngrams = zip(*(new[offset:] for offset in range(size)), strict=False)
            self._next_places.update(zip(ngrams, range(start, len(token_ids)), strict=False))
            self._num_indexed = len(token_ids)
        return self._next_places.get(tuple(token_ids[-size:]))


def with_drafts(
    step: Schedule, guesses: Mapping[int, Guess], geometry: BlockGeometry, row_cost_fraction: float
) -> tuple[Chunk, ...]:
    """Return the step's chunks, with drafts in what budget and blocks it leaves; `guesses` go by arrival number.

    Drafts come last: they take no row and no block from anybody. Each must be worth its row. A step of R rows takes
    1 - c + c R times as long as one of a single row, c being the row's cost; a row that is wanted anyway counts as
    one token, a drafted one as the chance that it is kept; and a draft is added while that raises tokens a second.
    """
    budget, free, chunks = step.budget, step.free, list[Chunk]()
    num_rows = sum(chunk.num_rows for chunk in step.chunks)
    num_tokens = float(num_rows)
    for chunk in step.chunks:
        guess = guesses.get(chunk.sequence.arrival, Guess())
        most = min(len(guess.token_ids), budget, geometry.rows_that_fit(chunk.stop, free))
        count, chance = 0, guess.acceptance
        while (
            count < most
            and chance * (1 - row_cost_fraction + row_cost_fraction * num_rows) > row_cost_fraction * num_tokens
        ):
            count, num_rows, num_tokens = count + 1, num_rows + 1, num_tokens + chance
            chance *= guess.acceptance
        budget, free = budget - count, free.minus(geometry.needed(chunk.stop, count))
        chunks.append(replace(chunk, draft=guess.token_ids[:count]) if count else chunk)
    return tuple(chunks)


def num_confirmed(draft: Ordered[int], sampled: Ordered[int | None]) -> int:
    """Return how many of the sampled tokens would have come without a draft: up to the first that it has wrong."""
    count = 0
    while count < len(draft) and sampled[count] == draft[count]:
        count += 1
    return count + 1


def drafters(limits: SpeculationLimits) -> Callable[[], Drafter | None]:
    """Return what makes each sequence's drafter; None where nothing is guessed."""
    if limits.max_draft_tokens == 0:
        return lambda: None
    return lambda: PromptLookup(limits.ngram_tokens)


def _continued(token_ids: list[int], place: int, most: int) -> tuple[int, ...]:
    """Return `most` tokens from `place` on; where the text ends, what begins at `place` is repeated."""
    following = token_ids[place : place + most]
    period = len(token_ids) - place
    while len(following) < most:
        following.append(following[-period])
    return tuple(following)
