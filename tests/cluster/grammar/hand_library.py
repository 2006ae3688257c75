"""A grammar library that can be checked on paper: a text matches if it is its spec's own text, token by token."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from cluster.errors import GrammarRefused
from cluster.grammar.constraint import GrammarSpec
from model.token_mask import Words, mask_of, num_words
from model.tokenizer import Tokenizer
from model.vocabulary import VOCAB_SIZE


@dataclass
class HandMatcher:
    """Allows `wanted`, one after the other."""

    wanted: Sequence[int]
    num_seen: int = 0
    failure: str | None = None

    def copy(self) -> "HandMatcher":
        return HandMatcher(self.wanted, self.num_seen)

    def advance(self, token_id: int) -> bool:
        if self.wanted[self.num_seen : self.num_seen + 1] != [token_id]:
            return False
        self.num_seen += 1
        return True

    def roll_back(self, num_tokens: int) -> None:
        assert num_tokens <= self.num_seen, "rolled back beyond the beginning"
        self.num_seen -= num_tokens

    def words(self) -> Words:
        following = self.wanted[self.num_seen : self.num_seen + 1]
        return mask_of(following, VOCAB_SIZE) if following else np.zeros(num_words(VOCAB_SIZE), dtype=np.uint32)

    @property
    def is_accepting(self) -> bool:
        return self.num_seen == len(self.wanted)


@dataclass
class HandLibrary:
    """Compiles texts; `bad` is refused."""

    compiled: list[str] = field(default_factory=list[str])

    def compile(self, spec: GrammarSpec) -> HandMatcher:
        if spec.text == "bad":
            raise GrammarRefused(f"{spec.origin}: it is bad")
        if spec.text == "panic":
            raise BaseException("as a library's panic")
        self.compiled.append(spec.text)
        return HandMatcher(Tokenizer().encode(spec.text))

    def close(self) -> None:
        """Nothing belongs to it."""
