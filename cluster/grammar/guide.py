"""TurnGuide: follows a sequence's output message by message and says which tokens may come next.

                 a header's last token                 an end token
      header ───────────────────────────▶ text ───────────────────────▶ opening, header … or over
      one of a few token sequences         any text, or a grammar's

A guide is a function of the constraint and the output's token ids: whoever takes the same ids stands at the same
place, after a preemption, on another replica, or before a guess was taken back. Ordinary tokens are never blocked
outside of headers and grammars; control tokens are, where they would end or begin a message that must not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np

from cluster.grammar.constraint import Constraint
from cluster.grammar.matcher import GrammarMatcher
from model.token_mask import Words, allow, mask_of, num_words
from model.vocabulary import NUM_RANKS


@dataclass(slots=True)
class _Node:
    """A place in a header: the tokens that may come, and the shape that begins here."""

    children: dict[int, "_Node"] = field(default_factory=dict[int, "_Node"])
    shape: int | None = None
    is_open: bool = False
    """Nothing is held from here on."""

    def add(self, token_ids: Sequence[int]) -> "_Node":
        node = self
        for token_id in token_ids:
            node = node.children.setdefault(token_id, _Node())
        return node


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a guide stands: in a header (a node), in a text (a shape), or beyond the end (neither)."""

    node: _Node | None = None
    shape: int | None = None
    num_text: int = 0
    """Tokens of the text so far."""
    written: frozenset[int] = frozenset()
    """Shapes of which there is one, and may be no other."""
    failure: str | None = None
    """Why it does not go on from here."""
    is_open: bool = False
    """Nothing is held any more, and the end is not ours to say."""

    def failed(self, why: str) -> "_Place":
        return replace(self, failure=why)


class TurnGuide:
    """Holds one sequence to its constraint. `grammars` has a matcher that has seen nothing for each shape with a body.

    Not thread-safe: first whoever makes it, then the engine's thread.
    """

    def __init__(self, constraint: Constraint, grammars: Mapping[int, GrammarMatcher], vocab_size: int) -> None:
        """Stand before the first header."""
        self._shapes = constraint.shapes
        self._origin = constraint.origin
        self._grammars = grammars
        self._vocab_size = vocab_size
        self._opening_ids = constraint.opening
        self._openings: dict[frozenset[int], _Node] = {}
        """What comes after a message, by the shapes that may come no more."""
        header = self._opening(frozenset()).add(constraint.opening)
        self._matchers: dict[int, GrammarMatcher] = {}
        """Of shapes that were begun: a text with a grammar is the turn's last, so each has seen one text at most."""
        self._places = [_Place(node=header) if header.shape is None else _Place(shape=header.shape)]
        self._token_ids: list[int] = []
        """Which led from each place to the next."""

    @property
    def failure(self) -> str | None:
        """Return why the sequence cannot go on, behind the request's field that is to blame, or None."""
        why = self._places[-1].failure
        return None if why is None else f"{self._origin}: {why}"

    @property
    def is_over(self) -> bool:
        """Return whether the last message has ended: there is nothing more to write."""
        place = self._places[-1]
        return place.node is None and place.shape is None and not place.is_open

    def advance(self, token_id: int) -> None:
        """Take the output's next token; one that is not allowed is a failure, and nothing after it is looked at."""
        place = self._places[-1]
        if place.failure is not None:
            after = place
        elif place.node is not None:
            after = _after_header(place, place.node, token_id)
        elif place.shape is not None:
            after = self._after_text(place, place.shape, token_id)
        else:
            after = place
        self._places.append(after)
        self._token_ids.append(token_id)

    def roll_back(self, num_tokens: int) -> None:
        """Forget the last tokens."""
        for _ in range(num_tokens):
            place = self._places.pop()
            self._token_ids.pop()
            before = self._places[-1]
            if before.shape is not None and place.shape == before.shape and place.num_text > before.num_text:
                matcher = self._matcher(before.shape)
                if matcher is not None:
                    matcher.roll_back(1)
        self._mend(self._places[-1])

    def mask(self, ahead: Sequence[int] = ()) -> Words:
        """Return the tokens allowed after the output so far and then `ahead`; see `TokenGuide`."""
        for token_id in ahead:
            self.advance(token_id)
        words = self._words(self._places[-1])
        self.roll_back(len(ahead))
        return words

    def num_allowed(self, ahead: Sequence[int]) -> int:
        """Return how many tokens of a guess, from its beginning, may come; the guide stays where it is."""
        count = 0
        for token_id in ahead:
            if self.is_over:
                break
            self.advance(token_id)
            if self._places[-1].failure is not None:
                self.roll_back(1)
                break
            count += 1
        self.roll_back(count)
        return count

    def _opening(self, written: frozenset[int]) -> _Node:
        """Return the place after a message: the opening, then the headers that may still come."""
        if written not in self._openings:
            self._openings[written] = opening = _Node()
            header = opening.add(self._opening_ids)
            for index, shape in enumerate(self._shapes):
                for token_ids in () if index in written else shape.headers:
                    last = header.add(token_ids)
                    last.shape, last.is_open = index, shape.is_open
        return self._openings[written]

    def _after_text(self, place: _Place, shape: int, token_id: int) -> _Place:
        matcher = self._matcher(shape)
        if token_id in self._shapes[shape].ends:
            if matcher is not None and not matcher.is_accepting:
                return place.failed("the text ended before its grammar allows it")
            if self._shapes[shape].is_last:
                return _Place()
            written = place.written | {shape} if self._shapes[shape].is_once else place.written
            return _Place(node=self._opening(written), written=written)
        if token_id >= NUM_RANKS:
            return place.failed(f"the control token {token_id} stands in a text")
        if matcher is not None and not matcher.advance(token_id):
            return place.failed(matcher.failure or "the text does not match its grammar")
        return replace(place, num_text=place.num_text + 1)

    def _matcher(self, shape: int) -> GrammarMatcher | None:
        if shape in self._grammars and shape not in self._matchers:
            self._matchers[shape] = self._grammars[shape].copy()
        return self._matchers.get(shape)

    def _mend(self, place: _Place) -> None:
        """Make matchers anew that a guess has led beyond a limit of their library: rolling back does not help those."""
        for shape in [shape for shape, matcher in self._matchers.items() if matcher.failure is not None]:
            if place.shape != shape:
                del self._matchers[shape]
            elif place.failure is None:
                self._matchers[shape] = matcher = self._grammars[shape].copy()
                for token_id in self._token_ids[len(self._token_ids) - place.num_text :]:
                    matcher.advance(token_id)

    def _words(self, place: _Place) -> Words:
        if place.node is not None:
            return mask_of(place.node.children, self._vocab_size)
        if place.shape is None:
            return np.full(num_words(self._vocab_size), 0xFFFFFFFF, dtype=np.uint32)
        ends, matcher = self._shapes[place.shape].ends, self._matcher(place.shape)
        if matcher is None:
            return _any_text(ends, self._vocab_size)
        words = matcher.words()
        if matcher.is_accepting:
            allow(words, ends)
        if matcher.failure is not None or not words.any():
            self._places[-1] = place.failed(matcher.failure or "the grammar allows no token here")
        return words


def _after_header(place: _Place, node: _Node, token_id: int) -> _Place:
    after = node.children.get(token_id)
    if after is None:
        return place.failed(f"token {token_id} belongs to the header of no message that may come")
    if after.is_open:
        return _Place(is_open=True)
    if after.shape is None:
        return _Place(node=after, written=place.written)
    return _Place(shape=after.shape, written=place.written)


@lru_cache(maxsize=64)
def _any_text(ends: tuple[int, ...], vocab_size: int) -> Words:
    """Return a mask of all ordinary tokens and of end tokens; nobody changes it."""
    return mask_of([*range(min(NUM_RANKS, vocab_size)), *ends], vocab_size)
