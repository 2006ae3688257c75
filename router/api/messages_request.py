"""From Anthropic's bodies to a ChatRequest: put into chat's words, and what chat says of them back into Anthropic's.

system                       a system message
user: text, tool_result …    user and tool messages, in the order of the blocks
assistant                    one message: thinking, text, calls
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from router.api.body import checked_body, ignored_fields
from router.api.chat_request import to_chat_request
from router.api.chat_types import ChatBody
from router.api.messages_types import (
    ContentBlock,
    CountTokensBody,
    Message,
    MessagesBody,
    MessagesTool,
    MessagesToolChoice,
)
from router.api.whole_calls import to_text
from router.api.wording import Wording
from router.config import LimitsSection
from router.errors import InvalidRequest
from router.harmony.conversation import is_tool_name
from router.requests import ChatRequest

WORDING = Wording(
    (r"\btools\[(\d+)\]\.function\.parameters\b", r"tools[\1].input_schema"),
    (r"\btools\[(\d+)\]\.function\b", r"tools[\1]"),
    (r"\bresponse_format(?:\.json_schema)?\b", "output_config.format"),
    (r"\breasoning_effort\b", "output_config.effort"),
    (r"\bmax_completion_tokens\b", "max_tokens"),
    (r"\btool_call_id\b", "tool_use_id"),
    (r"^stop\b", "stop_sequences"),
)
_BETWEEN_BLOCKS = "\n\n"
_EFFORT_BY_BUDGET = ((4_096, "low"), (16_384, "medium"))
_OWN_TYPES = (None, "custom")
_REDACTED = "redacted_thinking"
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


def to_request(body: CountTokensBody, limits: LimitsSection) -> ChatRequest:
    """Return what the body asks for; raises InvalidRequest naming field and value."""
    history = _History()
    if body.system:
        history.add("system", {"role": "system", "content": _joined(body.system, "system")})
    for place, message in enumerate(body.messages):
        history.take(message, f"messages[{place}]")
    if body.messages[-1].role == "assistant":
        message = "messages end with one of the assistant's; its answer cannot be begun for it. End with a user's."
        raise InvalidRequest(message, "messages", "unsupported_value")
    by_place = Wording((r"\bmessages\[(\d+)\]", lambda match: history.origins[int(match[1])]))
    notes: list[str] = []
    with WORDING.spoken(), by_place.spoken():
        request = to_chat_request(_chat_body(body, history.messages, notes), limits)
    return replace(request, notes=(*(WORDING.of(note) for note in request.notes), *notes))


def shows_thinking(body: CountTokensBody) -> bool:
    """Return whether the answer has thinking blocks: as in Anthropic's API, only if they were asked for."""
    wanted = body.thinking
    return wanted is not None and wanted.type != "disabled" and wanted.display != "omitted"


def ignored_in(body: CountTokensBody) -> list[str]:
    """Return the paths of what nothing reads: unknown fields, tools that a server would run, redacted thinking."""
    passed = [f"tools[{at}]" for at, tool in enumerate(body.tools or ()) if tool.type not in _OWN_TYPES]
    fields = [path for path in ignored_fields(body) if not path.startswith(tuple(f"{one}." for one in passed))]
    redacted = [
        f"messages[{place}].content[{at}]"
        for place, message in enumerate(body.messages)
        for at, block in enumerate(message.content)
        if isinstance(block, ContentBlock) and block.type == _REDACTED
    ]
    return [*(path for path in fields if not path.startswith(tuple(f"{one}." for one in redacted))), *passed, *redacted]


@dataclass
class _History:
    """Messages in chat's words, and where each of them stood."""

    messages: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    origins: list[str] = field(default_factory=list[str])

    def add(self, origin: str, message: dict[str, Any]) -> None:
        """Append a message that stood at `origin`."""
        self.messages.append(message)
        self.origins.append(origin)

    def take(self, message: Message, path: str) -> None:
        """Append what a message of Anthropic's says."""
        if isinstance(message.content, str):
            self.add(path, {"role": message.role, "content": message.content})
        elif message.role == "assistant":
            self.add(path, _assistant(message.content, path))
        elif message.role == "system":
            self.add(path, {"role": "system", "content": _joined(message.content, f"{path}.content")})
        else:
            self._take_user(message.content, path)

    def _take_user(self, blocks: Sequence[ContentBlock], path: str) -> None:
        texts: list[str] = []
        for at, block in enumerate(blocks):
            where = f"{path}.content[{at}]"
            if block.type != "tool_result":
                texts.append(_text(block, where))
                continue
            self._flush(texts, path)
            result = _joined(block.content or "", f"{where}.content")
            said = f"Error: {result}" if block.is_error else result
            call_id = _given(block.tool_use_id, f"{where}.tool_use_id")
            self.add(where, {"role": "tool", "tool_call_id": call_id, "content": said})
        self._flush(texts, path)

    def _flush(self, texts: list[str], path: str) -> None:
        if texts:
            self.add(path, {"role": "user", "content": _BETWEEN_BLOCKS.join(texts)})
            texts.clear()


def _assistant(blocks: Sequence[ContentBlock], path: str) -> dict[str, Any]:
    thoughts: list[str] = []
    texts: list[str] = []
    calls: list[dict[str, Any]] = []
    for at, block in enumerate(blocks):
        where = f"{path}.content[{at}]"
        if block.type == "thinking":
            thoughts.append(_given(block.thinking, f"{where}.thinking"))
        elif block.type == "tool_use":
            calls.append(_call(block, where))
        elif block.type != _REDACTED:
            texts.append(_text(block, where))
    said = {"content": _BETWEEN_BLOCKS.join(filter(None, texts)), "tool_calls": calls or None}
    return {"role": "assistant", "reasoning": _BETWEEN_BLOCKS.join(filter(None, thoughts)), **said}


def _call(block: ContentBlock, where: str) -> dict[str, Any]:
    name = _given(block.name, f"{where}.name")
    if not is_tool_name(name):
        message = f"{where}.name is {name[:64]!r}, which no tool can be called."
        raise InvalidRequest(message, f"{where}.name", "invalid_value")
    function = {"name": name, "arguments": to_text(_given(block.input, f"{where}.input"))}
    return {"id": _given(block.id, f"{where}.id"), "type": "function", "function": function}


def _joined(content: str | Sequence[ContentBlock], path: str) -> str:
    if isinstance(content, str):
        return content
    return _BETWEEN_BLOCKS.join(_text(block, f"{path}[{at}]") for at, block in enumerate(content))


def _text(block: ContentBlock, where: str) -> str:
    if block.type != "text":
        message = f"{where}.type is {block.type[:40]!r}, which has no place here; the model reads text only."
        raise InvalidRequest(message, f"{where}.type", "unsupported_value")
    return _given(block.text, f"{where}.text")


def _given(value: Any, path: str) -> Any:
    if value is None:
        raise InvalidRequest(f"{path} is missing.", path, "missing_required_parameter")
    return value


def _chat_body(body: CountTokensBody, messages: list[dict[str, Any]], notes: list[str]) -> ChatBody:
    choice = body.tool_choice or MessagesToolChoice(type="auto")
    wanted = body.output_config.format if body.output_config is not None else None
    document: dict[str, Any] = {
        "model": body.model,
        "messages": messages,
        "tools": [_tool(tool, f"tools[{at}]") for at, tool in enumerate(body.tools or ())],
        "tool_choice": _tool_choice(choice),
        "parallel_tool_calls": not choice.disable_parallel_tool_use,
        "reasoning_effort": _effort(body, notes),
    }
    if wanted is not None:
        schema = {"name": "format", "schema": wanted.schema_}
        document["response_format"] = {"type": "json_schema", "json_schema": schema}
    if isinstance(body, MessagesBody):
        document |= {
            "max_completion_tokens": body.max_tokens,
            "temperature": body.temperature,
            "top_p": body.top_p,
            "top_k": body.top_k,
            "stop": body.stop_sequences,
        }
    return checked_body(document, ChatBody)


def _tool(tool: MessagesTool, path: str) -> dict[str, Any]:
    if tool.type not in _OWN_TYPES:
        return {"type": "passed_over"}
    function = {"name": _given(tool.name, f"{path}.name"), "description": tool.description, "strict": tool.strict}
    return {"type": "function", "function": {**function, "parameters": tool.input_schema}}


def _tool_choice(choice: MessagesToolChoice) -> str | dict[str, Any]:
    if choice.type != "tool":
        return _CHOICES[choice.type]
    return {"type": "function", "function": {"name": _given(choice.name, "tool_choice.name")}}


def _effort(body: CountTokensBody, notes: list[str]) -> str | None:
    """Return the effort that is asked for; the client is told what its budget, or the lack of one, was taken for."""
    thinking = body.thinking
    if thinking is not None and thinking.type == "disabled":
        notes.append("thinking: disabled is served as low effort without showing it; the model always reasons")
    named = body.output_config.effort if body.output_config is not None else None
    if named is not None:
        return named
    if thinking is None or thinking.type == "adaptive":
        return None
    if thinking.type == "disabled":
        return "low"
    budget = _given(thinking.budget_tokens, "thinking.budget_tokens")
    effort = next((name for below, name in _EFFORT_BY_BUDGET if budget < below), "high")
    notes.append(f"thinking.budget_tokens: {budget} is served as {effort} effort")
    return effort
