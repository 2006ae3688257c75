"""From a chat body to a ChatRequest: messages to turns, tools, tool choice, effort, response format."""

from collections.abc import Sequence

from router.api.chat_types import ChatBody, ChatMessage, ContentPart, NamedTool, Tool
from router.api.options import to_options
from router.api.structured_types import answer_grammar
from router.config import LimitsSection
from router.errors import InvalidRequest
from router.harmony.conversation import (
    AssistantTurn,
    Conversation,
    Effort,
    FunctionTool,
    InstructionTurn,
    ResponseFormat,
    ToolCall,
    ToolMode,
    ToolTurn,
    Turn,
    UserTurn,
    is_participant_name,
    is_tool_name,
)
from router.harmony.recipients import PYTHON
from router.requests import ChatRequest

_EFFORTS = {
    "none": Effort.LOW,
    "minimal": Effort.LOW,
    "low": Effort.LOW,
    "medium": Effort.MEDIUM,
    "high": Effort.HIGH,
    "xhigh": Effort.HIGH,
    "max": Effort.HIGH,
}
_PYTHON_TYPES = ("python", "code_interpreter")


def to_chat_request(body: ChatBody, limits: LimitsSection, timeout_s: float | None = None) -> ChatRequest:
    """Return what the body asks for; raises InvalidRequest naming field and value."""
    notes: list[str] = []
    _check_counts(body, limits)
    effort = _effort(body, notes)
    tool_mode, forced_tool = _tool_choice(body)
    conversation = Conversation(
        turns=_turns(body.messages),
        functions=_functions(body.tools or ()),
        has_python=any(tool.type in _PYTHON_TYPES for tool in body.tools or ()),
        effort=effort,
        response_format=_response_format(body),
        answer_grammar=answer_grammar(body),
        tool_mode=tool_mode,
        forced_tool=forced_tool,
    )
    if body.store:
        notes.append("store: chat completions are not stored")
    options = to_options(body, limits, _max_tokens(body), _num_logprobs(body))
    has_parallel_calls = body.parallel_tool_calls is not False
    return ChatRequest(conversation, options, body.model, tuple(notes), timeout_s, has_parallel_calls)


def ignored_tools(tools: Sequence[Tool] | None) -> list[str]:
    """Return the tools of types that are passed over, as `tools[0]`."""
    known = ("function", *_PYTHON_TYPES)
    return [f"tools[{place}]" for place, tool in enumerate(tools or ()) if tool.type not in known]


def _check_counts(body: ChatBody, limits: LimitsSection) -> None:
    for field, values, limit in (
        ("messages", body.messages, limits.max_messages),
        ("tools", body.tools or [], limits.max_tools),
    ):
        if len(values) > limit:
            raise InvalidRequest(
                f"{field} has {len(values)} entries; at most {limit} are taken.", field, "invalid_value"
            )
    if body.stream_options is not None and not body.stream:
        raise InvalidRequest("stream_options is for streams only: set stream.", "stream_options", "invalid_value")


def _effort(body: ChatBody, notes: list[str]) -> Effort:
    named = body.reasoning_effort or (body.reasoning.effort if body.reasoning is not None else None)
    if named is None:
        return Effort.MEDIUM
    effort = _EFFORTS[named]
    if effort.value != named:
        notes.append(f"reasoning_effort: {named} is served as {effort.value}, the nearest that was trained")
    return effort


def _tool_choice(body: ChatBody) -> tuple[ToolMode, str | None]:
    choice = body.tool_choice
    if choice is None or choice in ("auto", "none"):
        return (ToolMode.NONE if choice == "none" else ToolMode.AUTO), None
    names = [tool.function.name for tool in body.tools or () if tool.function is not None and tool.type == "function"]
    names += [PYTHON for tool in body.tools or () if tool.type in _PYTHON_TYPES]
    if not names:
        raise InvalidRequest("tool_choice asks for a call, but there are no tools.", "tool_choice", "invalid_value")
    if isinstance(choice, NamedTool):
        return ToolMode.REQUIRED, _named(choice, names)
    return ToolMode.REQUIRED, None


def _named(choice: NamedTool, names: list[str]) -> str:
    if choice.type in _PYTHON_TYPES:
        name = PYTHON
    elif choice.type == "function" and choice.function is not None:
        name = choice.function.name
    else:
        message = (
            f"tool_choice.type is {choice.type[:40]!r}; a tool is named by {{type: function, function: {{name}}}}."
        )
        raise InvalidRequest(message, "tool_choice.type", "unsupported_value")
    if name not in names:
        message = f"tool_choice names {name[:64]!r}, which is not among the tools."
        raise InvalidRequest(message, "tool_choice", "invalid_value")
    return name


def _functions(tools: Sequence[Tool]) -> tuple[FunctionTool, ...]:
    functions: list[FunctionTool] = []
    seen: set[str] = {PYTHON} if any(tool.type in _PYTHON_TYPES for tool in tools) else set()
    for place, tool in enumerate(tools):
        if tool.type == "custom":
            message = f"tools[{place}].type is custom; only function and python tools are supported."
            raise InvalidRequest(message, f"tools[{place}].type", "unsupported_value")
        if tool.type != "function":
            continue
        path = f"tools[{place}].function"
        if tool.function is None:
            raise InvalidRequest(f"{path} is missing.", path, "missing_required_parameter")
        name = tool.function.name
        if not is_tool_name(name) or name in seen:
            why = "is used twice" if name in seen else "must have 1 to 64 letters, digits, _, . or -"
            raise InvalidRequest(f"{path}.name is {name[:64]!r}; it {why}.", f"{path}.name", "invalid_value")
        seen.add(name)
        given = tool.function
        functions.append(FunctionTool(name, given.description or "", given.parameters, bool(given.strict)))
    return tuple(functions)


def _response_format(body: ChatBody) -> ResponseFormat | None:
    """Return what the model is told of the answer's form; what it is held to is a matter of the grammar."""
    wanted = body.response_format
    if wanted is None or wanted.type == "text":
        return None
    if wanted.json_schema is None:
        return ResponseFormat("json_object", {"type": "object"})
    given = wanted.json_schema
    return ResponseFormat(given.name, given.schema_ or {"type": "object"}, given.description or "")


def _max_tokens(body: ChatBody) -> int | None:
    if None not in (body.max_tokens, body.max_completion_tokens) and body.max_tokens != body.max_completion_tokens:
        message = "max_tokens and max_completion_tokens differ; send max_completion_tokens only."
        raise InvalidRequest(message, "max_tokens", "invalid_value")
    return body.max_completion_tokens or body.max_tokens


def _num_logprobs(body: ChatBody) -> int | None:
    if body.top_logprobs and not body.logprobs:
        raise InvalidRequest("top_logprobs needs logprobs to be true.", "top_logprobs", "invalid_value")
    return (body.top_logprobs or 0) if body.logprobs else None


def _turns(messages: Sequence[ChatMessage]) -> tuple[Turn, ...]:
    turns: list[Turn] = []
    names_by_call: dict[str, str] = {}
    for place, message in enumerate(messages):
        path = f"messages[{place}]"
        if message.role == "assistant":
            calls = tuple(_call(path, at, message) for at in range(len(message.tool_calls or ())))
            names_by_call |= {
                call.id: called.name for call, called in zip(message.tool_calls or (), calls, strict=True)
            }
            reasoning = message.reasoning or message.reasoning_content or ""
            text = _text(message, path, is_needed=False) or message.refusal or ""
            turns.append(AssistantTurn(text, reasoning, calls))
        elif message.role == "tool":
            turns.append(ToolTurn(_answered(message, path, names_by_call), _text(message, path)))
        elif message.role == "user":
            if message.name is not None and not is_participant_name(message.name):
                why = f"{path}.name is {message.name[:64]!r}; it must have 1 to 64 letters, digits, _ or -."
                raise InvalidRequest(why, f"{path}.name", "invalid_value")
            turns.append(UserTurn(_text(message, path), message.name))
        else:
            turns.append(InstructionTurn(_text(message, path)))
    return tuple(turns)


def _call(path: str, at: int, message: ChatMessage) -> ToolCall:
    function = (message.tool_calls or [])[at].function
    if not is_tool_name(function.name):
        where = f"{path}.tool_calls[{at}].function.name"
        raise InvalidRequest(f"{where} is {function.name[:64]!r}, which no tool can be called.", where, "invalid_value")
    return ToolCall(function.name, function.arguments)


def _answered(message: ChatMessage, path: str, names_by_call: dict[str, str]) -> str:
    """Return the name of the tool whose call a tool message answers."""
    where = f"{path}.tool_call_id"
    if message.tool_call_id is None:
        raise InvalidRequest(f"{where} is missing.", where, "missing_required_parameter")
    if message.tool_call_id not in names_by_call:
        known = f"{where} is {message.tool_call_id[:80]!r}, which is no call of an assistant message before it."
        raise InvalidRequest(known, where, "invalid_value")
    return names_by_call[message.tool_call_id]


def _text(message: ChatMessage, path: str, is_needed: bool = True) -> str:
    if message.content is None:
        if is_needed:
            raise InvalidRequest(f"{path}.content is missing.", f"{path}.content", "missing_required_parameter")
        return ""
    if isinstance(message.content, str):
        return message.content
    return "".join(_part_text(part, f"{path}.content[{at}]") for at, part in enumerate(message.content))


def _part_text(part: ContentPart, path: str) -> str:
    text = part.refusal if part.type == "refusal" else part.text
    if part.type not in ("text", "refusal"):
        message = f"{path}.type is {part.type[:40]!r}; the model reads text only."
        raise InvalidRequest(message, f"{path}.type", "unsupported_value")
    if text is None:
        raise InvalidRequest(f"{path}.{part.type} is missing.", f"{path}.{part.type}", "missing_required_parameter")
    return text
