"""Constraint: what a sequence may write, as a value that travels with it. Nothing of any library.

A turn is a row of messages. Each begins with one of a few headers, goes on with text, which a grammar may hold to a
form, and ends with one of a few tokens. What stands outside of a grammar's text is never held to it.

    <|channel|>analysis<|message|> any text <|end|> <|start|>assistant
    <|channel|>final<|message|> text of the answer's grammar <|return|>
"""

from dataclasses import dataclass, field
from enum import StrEnum


class GrammarKind(StrEnum):
    """How a grammar is written."""

    JSON_SCHEMA = "json_schema"
    JSON_OBJECT = "json_object"
    """A JSON object of any shape; there is no text."""
    REGEX = "regex"
    CHOICE = "choice"
    """A JSON array of strings."""
    LARK = "lark"
    """Lark's syntax, or EBNF with `::=` and a rule `root`."""


@dataclass(frozen=True, slots=True)
class GrammarSpec:
    """A grammar as its author wrote it."""

    kind: GrammarKind
    text: str
    is_lenient: bool = False
    """Leave out what cannot be enforced of a JSON schema; otherwise it is refused."""
    origin: str = field(default="", compare=False)
    """The request's field that it came from, for messages."""


@dataclass(frozen=True, slots=True)
class MessageShape:
    """One kind of message that may be written."""

    headers: tuple[tuple[int, ...], ...]
    """Token ids that may open it, the last of each being `<|message|>`; an empty one: the text begins at once."""
    ends: tuple[int, ...]
    """Tokens that may stand after its text."""
    is_last: bool
    """The turn is over with it; otherwise another message follows."""
    body: GrammarSpec | None = None
    """What its text must match; None: any text."""
    is_once: bool = False
    """It may be written once in a turn: whoever would write it again goes on to another kind."""
    is_open: bool = False
    """Nothing is held after its header: the sequence goes on and ends as one without a constraint."""


@dataclass(frozen=True, slots=True)
class Constraint:
    """The messages that a sequence's output may consist of, one after the other."""

    shapes: tuple[MessageShape, ...]
    opening: tuple[int, ...] = ()
    """Token ids between the end of a message and the next one's header."""

    @property
    def origin(self) -> str:
        """Return the request's field that the first grammar came from, for messages."""
        return next((shape.body.origin for shape in self.shapes if shape.body is not None), "tools")

    def __post_init__(self) -> None:
        for shape in self.shapes:
            assert shape.is_last or shape.body is None, "a text with a grammar ends the turn"
            assert shape.ends or shape.is_open, "a message without an end never ends"
