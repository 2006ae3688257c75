"""Harmony as text for tests: control tokens written out, and what a parser makes of it, in one line a message."""

from collections.abc import Sequence

from model.tokenizer import Tokenizer
from router.harmony.deltas import CallBegun, CallDelta, ContentDelta, Delta, MessageBegun, MessageEnded, ReasoningDelta
from router.harmony.parse import HarmonyParser
from router.harmony.recipients import CallableTools

TOKENIZER = Tokenizer()
WEATHER = CallableTools(frozenset({"get_weather", "get_time"}))
NOTHING = CallableTools()


def ids_of(text: str) -> list[int]:
    """Return the ids of harmony text; control tokens stand for themselves."""
    return TOKENIZER.encode_with_special(text)


def deltas_of(ids: Sequence[int], tools: CallableTools = WEATHER) -> list[Delta]:
    """Return everything a parser says of a turn."""
    parser = HarmonyParser(TOKENIZER.token_bytes, tools)
    return parser.push_all(ids) + parser.finish()


def messages_of(deltas: Sequence[Delta]) -> list[str]:
    """Return each message as `kind: text` or `call name: arguments`, its ending behind a bar."""
    lines: dict[int, str] = {}
    for delta in deltas:
        if isinstance(delta, MessageBegun):
            assert delta.message not in lines, f"message {delta.message} begins twice"
            lines[delta.message] = f"{delta.kind}: "
        elif isinstance(delta, CallBegun):
            lines[delta.message] = f"call {delta.name}: "
        elif isinstance(delta, ReasoningDelta | ContentDelta | CallDelta):
            lines[delta.message] += delta.text
        else:
            assert isinstance(delta, MessageEnded), delta
            lines[delta.message] += f" | {delta.ending}"
    return list(lines.values())


def parsed(text: str, tools: CallableTools = WEATHER) -> list[str]:
    """Return the messages of harmony text."""
    return messages_of(deltas_of(ids_of(text), tools))
