"""Turns that a HandBackend says, as token ids."""

from model.tokenizer import Tokenizer

_TOKENIZER = Tokenizer()


def turn(text: str) -> list[int]:
    """Return the ids of harmony text, control tokens written out."""
    return _TOKENIZER.encode_with_special(text)


def answer(text: str, reasoning: str = "Hm.") -> list[int]:
    """Return a turn that reasons and answers."""
    return turn(
        f"<|channel|>analysis<|message|>{reasoning}<|end|><|start|>assistant<|channel|>final<|message|>{text}<|return|>"
    )


def call(name: str, arguments: str, reasoning: str = "I need a tool.") -> list[int]:
    """Return a turn that reasons and calls a function."""
    return turn(
        f"<|channel|>analysis<|message|>{reasoning}<|end|><|start|>assistant<|channel|>commentary to=functions.{name} "
        f"<|constrain|>json<|message|>{arguments}<|call|>"
    )
