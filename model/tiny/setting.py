"""What stands before the first user message: effort, date, instructions, tools, response format.

A `Setting` is the value from which the system and developer messages are rendered; the generators of exchanges read
it to know what the assistant may do. Rendering itself is in `prompts.py`.
"""

import hashlib
from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal

Effort = Literal["low", "medium", "high"]
EFFORTS: tuple[Effort, ...] = ("low", "medium", "high")
HELD_OUT_PERCENT = 12
"""Share of questions, by hash, that training never shows."""


@dataclass(frozen=True, slots=True)
class Function:
    """A function tool as a client offers it."""

    name: str
    description: str
    parameters: dict[str, Any]
    """Its JSON schema."""


@dataclass(frozen=True, slots=True)
class ResponseFormat:
    """A JSON schema that the final answer has to follow."""

    name: str
    schema: dict[str, Any]
    description: str = ""


@dataclass(frozen=True, slots=True)
class Setting:
    """Everything the system and developer messages say."""

    effort: Effort
    date: str
    """YYYY-MM-DD."""
    instructions: str = ""
    is_brief: bool = False
    """The instructions ask for short answers."""
    functions: tuple[Function, ...] = ()
    has_python: bool = False
    response_format: ResponseFormat | None = None


@dataclass(frozen=True, slots=True)
class Exchange:
    """A conversation after its setting, up to `<|start|>assistant`, and what the assistant should write next."""

    kind: str
    prompt: str
    """Harmony text with its special tokens written out."""
    completion: str
    answer: str
    """What a grader looks for: the final text, or the call's arguments as JSON."""
    called: str = field(default="")
    """The recipient that has to be called, such as `functions.get_time`; empty when none."""


COPY_START, COPY_END = "\x01", "\x02"
"""Around a value that a completion copies from JSON: it is spelt in the pieces that it has there (see `prompts.py`)."""


def copied(value: object) -> str:
    """Return `value` with a space before it, marked as a copy from JSON."""
    return f"{COPY_START}{value}{COPY_END}"


def plain(text: str) -> str:
    """Return `text` as a reader sees it: a space where the mark of a copy begins."""
    return text.replace(COPY_START, " ").replace(COPY_END, "")


def is_held_out(key: str) -> bool:
    """Return whether the question named by `key` belongs to the held-out part: decided by its hash alone."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") % 100 < HELD_OUT_PERCENT


@dataclass(slots=True)
class Draw:
    """A source of randomness that draws from the training part or from the held-out part of the world."""

    random: Random
    wants_held_out: bool = False
    max_tries: int = 400

    def accepts(self, key: str) -> bool:
        """Return whether the question named by `key` lies in the wanted part."""
        return is_held_out(key) == self.wants_held_out


def final(analysis: str, text: str) -> str:
    """Return a completion that reasons and answers."""
    return (
        f"<|channel|>analysis<|message|>{analysis}<|end|><|start|>assistant<|channel|>final<|message|>{text}<|return|>"
    )


def user(text: str) -> str:
    """Return a user message in harmony text."""
    return f"<|start|>user<|message|>{text}<|end|>"


def said(text: str) -> str:
    """Return an earlier final answer in harmony text: history holds no analysis and ends in `<|end|>`."""
    return f"<|start|>assistant<|channel|>final<|message|>{text}<|end|>"
