"""Wording: what a family calls the fields that chat's rules know by chat's names.

Every family is put into chat's words, so that all mean the same by the same; what is then said of a field, at once or
only when its grammar was compiled, is put back into the words that the client used.
"""

import re
from collections.abc import Callable, Generator
from contextlib import contextmanager

from router.errors import InvalidRequest, answer_to

Replacement = str | Callable[[re.Match[str]], str]


class Wording:
    """Patterns of chat's names, and what stands for them here; the first ones are replaced first."""

    def __init__(self, *names: tuple[str, Replacement]) -> None:
        """Replace each pattern by the name, or by what the function makes of a match."""
        self._names = tuple((re.compile(pattern), name) for pattern, name in names)

    def of(self, text: str) -> str:
        """Return `text` in our words."""
        for pattern, name in self._names:
            text = pattern.sub(name, text)
        return text

    @contextmanager
    def spoken(self) -> Generator[None]:
        """Let what is refused inside name the fields of this family."""
        try:
            yield
        except Exception as error:
            answer = answer_to(error)
            if not isinstance(answer, InvalidRequest):
                raise
            param = None if answer.param is None else self.of(answer.param)
            raise InvalidRequest(self.of(answer.message), param, answer.code) from error
