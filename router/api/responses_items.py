"""Items: what a client sends, checked and completed; and what they mean to the model.

    message, function_call, function_call_output, reasoning        one turn each, in the order they stand
    item_reference                                                 the stored item that it names

Ids that we give say where an item is stored: `msg_` + the response's digits + `o2` is item 2 of its output, `i2` of
its input.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from router.api.responses_answers import Item, TextPart
from router.api.responses_types import InputItem, ItemPart
from router.errors import InvalidRequest
from router.harmony.conversation import (
    AssistantTurn,
    InstructionTurn,
    ToolCall,
    ToolTurn,
    Turn,
    UserTurn,
    is_tool_name,
)

_OUR_ID = re.compile(r"[a-z]+_([0-9a-f]{32})([io])([0-9]{1,6})")
_PREFIXES = {"message": "msg", "reasoning": "rs", "function_call": "fc", "function_call_output": "fco"}
_READ, _SAID, _REASONED = ("input_text", "text"), ("output_text", "text", "refusal"), ("reasoning_text", "text")


@dataclass(frozen=True, slots=True)
class StoredPlace:
    """Where an item is stored."""

    response_id: str
    is_output: bool
    place: int


def stored_place(item_id: str) -> StoredPlace | None:
    """Return where the item of this id was stored first; None if the id is none of ours."""
    found = _OUR_ID.fullmatch(item_id)
    return None if found is None else StoredPlace(f"resp_{found[1]}", found[2] == "o", int(found[3]))


def input_items(given: str | Sequence[InputItem] | None) -> list[InputItem]:
    """Return the items of an `input`; text is a user's message."""
    if isinstance(given, str):
        return [InputItem(type="message", role="user", content=given)]
    return list(given or ())


def is_reference(item: InputItem) -> bool:
    """Return whether an item only names a stored one."""
    return item.type == "item_reference" or (item.type is None and item.role is None and item.id is not None)


def to_item(item: InputItem, path: str, stem: str, place: int) -> Item:
    """Return a whole item of `path`, with an id below `stem`; raises InvalidRequest naming what is wrong."""
    kind = item.type or "message"
    makers: dict[str, Callable[[InputItem, str], dict[str, Any]]] = {
        "message": _message,
        "reasoning": _reasoning,
        "function_call": _call,
        "function_call_output": _output,
    }
    if kind not in makers:
        message = f"{path}.type is {kind[:40]!r}; messages, reasoning, function calls and their outputs are read."
        raise InvalidRequest(message, f"{path}.type", "unsupported_value")
    own_id = item.id or f"{_PREFIXES[kind]}_{stem}i{place}"
    status = {} if kind == "reasoning" else {"status": item.status or "completed"}
    whole: Any = {"id": own_id, "type": kind, **makers[kind](item, path), **status}
    return whole


def to_turns(items: Sequence[Item]) -> tuple[Turn, ...]:
    """Return what items say to the model; raises InvalidRequest for an output that answers no call."""
    names_by_call: dict[str, str] = {}
    turns: list[Turn] = []
    for place, item in enumerate(items):
        if item["type"] == "function_call":
            names_by_call[item.get("call_id", "")] = item.get("name", "")
        turns += _turn(item, names_by_call, is_before_call=_is_before_call(items, place))
    return tuple(turns)


def _turn(item: Item, names_by_call: dict[str, str], is_before_call: bool) -> list[Turn]:
    if item["type"] == "reasoning":
        text = _joined(item.get("content") or item.get("summary") or [])
        return [AssistantTurn(reasoning=text)] if text else []
    if item["type"] == "function_call":
        return [AssistantTurn(calls=(ToolCall(item.get("name", ""), item.get("arguments", "")),))]
    if item["type"] == "function_call_output":
        call_id = item.get("call_id", "")
        if call_id not in names_by_call:
            message = f"input has an output for the call_id {call_id[:80]!r}, and no function_call before it has that."
            raise InvalidRequest(message, "input", "invalid_value")
        output = item.get("output", "")
        return [ToolTurn(names_by_call[call_id], output if isinstance(output, str) else _joined(output))]
    text = _joined(item.get("content", []))
    if item.get("role") == "user":
        return [UserTurn(text)]
    if item.get("role") == "assistant":
        phase = item.get("phase")
        is_preamble = phase == "commentary" or (phase is None and is_before_call)
        return [AssistantTurn(text, is_preamble=is_preamble)]
    return [InstructionTurn(text)]


def _is_before_call(items: Sequence[Item], place: int) -> bool:
    """Return whether the assistant goes on to call a function behind this item."""
    for item in items[place + 1 :]:
        if item["type"] == "function_call":
            return True
        if item["type"] != "reasoning":
            return False
    return False


def _joined(parts: Sequence[TextPart]) -> str:
    return "".join(part.get("text") or part.get("refusal") or "" for part in parts)


def _message(item: InputItem, path: str) -> dict[str, Any]:
    role = _given(item.role, f"{path}.role")
    is_assistant = role == "assistant"
    kinds, kind = (_SAID, "output_text") if is_assistant else (_READ, "input_text")
    parts = _parts(_given(item.content, f"{path}.content"), f"{path}.content", kinds, kind)
    phase = {"phase": item.phase} if is_assistant and item.phase is not None else {}
    return {"role": role, "content": parts, **phase}


def _reasoning(item: InputItem, path: str) -> dict[str, Any]:
    found: dict[str, Any] = {"summary": _parts(item.summary or [], f"{path}.summary", ("summary_text",), "")}
    if item.content:
        found["content"] = _parts(item.content, f"{path}.content", _REASONED, "reasoning_text")
    if item.encrypted_content is not None:
        found["encrypted_content"] = item.encrypted_content
    return found


def _call(item: InputItem, path: str) -> dict[str, Any]:
    name = _given(item.name, f"{path}.name")
    if not is_tool_name(name):
        message = f"{path}.name is {name[:64]!r}, which no tool can be called."
        raise InvalidRequest(message, f"{path}.name", "invalid_value")
    arguments = _given(item.arguments, f"{path}.arguments")
    return {"call_id": _given(item.call_id, f"{path}.call_id"), "name": name, "arguments": arguments}


def _output(item: InputItem, path: str) -> dict[str, Any]:
    output = _given(item.output, f"{path}.output")
    call_id = _given(item.call_id, f"{path}.call_id")
    if isinstance(output, str):
        return {"call_id": call_id, "output": output}
    return {"call_id": call_id, "output": _parts(output, f"{path}.output", _READ, "input_text")}


def _parts(given: str | Sequence[ItemPart], path: str, kinds: tuple[str, ...], kind: str) -> list[TextPart]:
    """Return the pieces of an item, plain text as one piece of `kind`; `text` is another word for it."""
    if isinstance(given, str):
        return [_part(kind, given)]
    parts: list[TextPart] = []
    for at, part in enumerate(given):
        if part.type not in kinds:
            message = f"{path}[{at}].type is {part.type[:40]!r}; the model reads text only, here {kinds[0]}."
            raise InvalidRequest(message, f"{path}[{at}].type", "unsupported_value")
        field = "refusal" if part.type == "refusal" else "text"
        text = _given(part.refusal if part.type == "refusal" else part.text, f"{path}[{at}].{field}")
        parts.append(_part(kind if part.type == "text" else part.type, text))
    return parts


def _part(kind: Any, text: str) -> TextPart:
    if kind == "refusal":
        return {"type": "refusal", "refusal": text}
    if kind == "output_text":
        return {"type": "output_text", "text": text, "annotations": []}
    return {"type": kind, "text": text}


def _given(value: Any, path: str) -> Any:
    if value is None:
        raise InvalidRequest(f"{path} is missing.", path, "missing_required_parameter")
    return value
