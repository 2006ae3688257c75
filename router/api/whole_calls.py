"""Calls whose arguments are objects: for families that tell a call only when it is whole.

A model may write arguments that are no JSON object, or be cut while it writes them. They are not lost: they are told
as `{"INVALID_JSON": text}`, Anthropic's advice for that case, and are the text again when they are handed back.
"""

import json
from dataclasses import dataclass
from typing import Any, cast

from router.harmony.deltas import CallBegun, CallDelta, Delta, MessageEnded

INVALID_JSON = "INVALID_JSON"


@dataclass(frozen=True, slots=True)
class WholeCall:
    """A call that is over. `call` counts the calls of the turn from 0."""

    call: int
    name: str
    arguments: dict[str, Any]


class CallCollector:
    """Collects one choice's calls."""

    def __init__(self) -> None:
        self._begun: CallBegun | None = None
        self._texts: list[str] = []

    def on(self, delta: Delta) -> WholeCall | None:
        """Return the call that `delta` ends, if it ends one."""
        if isinstance(delta, CallBegun):
            self._begun, self._texts = delta, []
        elif isinstance(delta, CallDelta):
            self._texts.append(delta.text)
        elif isinstance(delta, MessageEnded) and self._begun is not None:
            begun, self._begun = self._begun, None
            return WholeCall(begun.call, begun.name, to_object("".join(self._texts)))
        return None


def to_object(arguments: str) -> dict[str, Any]:
    """Return the object that a call's arguments are; no text is no arguments."""
    try:
        parsed = json.loads(arguments.strip() or "{}")
        # Python reads infinities and halves of surrogate pairs, which no answer can carry.
        json.dumps(parsed, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        return {INVALID_JSON: arguments}
    return cast(dict[str, Any], parsed) if isinstance(parsed, dict) else {INVALID_JSON: arguments}


def to_text(arguments: dict[str, Any]) -> str:
    """Return arguments that a client hands back as the text that the model wrote, or would have written."""
    invalid = arguments.get(INVALID_JSON)
    if len(arguments) == 1 and isinstance(invalid, str):
        return invalid
    return json.dumps(arguments, ensure_ascii=False, separators=(",", ":"))
