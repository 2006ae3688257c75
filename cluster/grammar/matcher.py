"""GrammarMatcher and GrammarLibrary: what is needed of a library of grammars, and what it may say against one."""

from typing import Protocol

from cluster.grammar.constraint import GrammarSpec
from model.token_mask import Words


class GrammarMatcher(Protocol):
    """A grammar, and how much of a text it has seen. Not thread-safe."""

    def copy(self) -> "GrammarMatcher":
        """Return another one that has seen the same."""
        ...

    def advance(self, token_id: int) -> bool:
        """Take an ordinary token; return whether the grammar allows it. After a no it has seen nothing more."""
        ...

    def roll_back(self, num_tokens: int) -> None:
        """Forget the last tokens."""
        ...

    def words(self) -> Words:
        """Return the ordinary tokens that may come next; the caller may change the array."""
        ...

    @property
    def is_accepting(self) -> bool:
        """Return whether the text may end here."""
        ...

    @property
    def failure(self) -> str | None:
        """Return why nothing more can be said: a limit of the library was passed."""
        ...


class GrammarLibrary(Protocol):
    """Compiles grammars."""

    def compile(self, spec: GrammarSpec) -> GrammarMatcher:
        """Return a matcher that has seen nothing. Raises GrammarRefused naming the place and what is wrong there."""
        ...

    def close(self) -> None:
        """End what belongs to it."""
        ...
