"""What the parser says: a model's turn as typed pieces, in order.

A turn is a row of messages. Each begins, carries text, and ends; `message` counts them from 0. Concatenated, the
texts of a message are the message, however the tokens arrived.
"""

from dataclasses import dataclass
from enum import StrEnum


class MessageKind(StrEnum):
    """Who a message of the assistant is for."""

    REASONING = "reasoning"
    """Raw chain of thought."""
    PREAMBLE = "preamble"
    """Commentary without a recipient: said to the user before a call."""
    ANSWER = "answer"
    CALL = "call"
    """A call of a tool, on whatever channel it was written."""


class Ending(StrEnum):
    """What ended a message."""

    END = "end"
    CALL = "call"
    RETURN = "return"
    CUT = "cut"
    """No end token: the tokens ran out, or another message began."""


@dataclass(frozen=True, slots=True)
class MessageBegun:
    """A message opens; calls open with `CallBegun` right after."""

    message: int
    kind: MessageKind


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """More of a reasoning message."""

    message: int
    text: str
    positions: tuple[int, ...]
    """The output tokens, counted from 0, whose text this is."""


@dataclass(frozen=True, slots=True)
class ContentDelta:
    """More of a message that the user sees: a preamble or an answer."""

    message: int
    text: str
    positions: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class CallBegun:
    """A call's name is known. `call` counts the calls of the turn from 0."""

    message: int
    call: int
    name: str


@dataclass(frozen=True, slots=True)
class CallDelta:
    """More of a call's arguments, as the model wrote them: whether they are JSON is not asked here."""

    message: int
    call: int
    text: str
    positions: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class MessageEnded:
    """A message closes."""

    message: int
    ending: Ending


Delta = MessageBegun | ReasoningDelta | ContentDelta | CallBegun | CallDelta | MessageEnded
