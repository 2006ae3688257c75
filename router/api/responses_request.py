"""From a response body to a ChatRequest: tools, tool choice, effort, format and sampling by chat's own rules.

The body is put into chat's words, so that both families mean the same by the same; what chat then says of its fields is
put back into the words of this one.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from router.api.body import ignored_fields
from router.api.chat_request import to_chat_request
from router.api.chat_types import (
    CalledFunction,
    ChatBody,
    ChatMessage,
    FunctionDefinition,
    NamedTool,
    Tool,
)
from router.api.options import SamplingBody
from router.api.responses_types import (
    ENCRYPTED_REASONING,
    LOGPROBS,
    NamedChoice,
    ResponseBody,
    ResponseTool,
    TextFormat,
    ToolChoiceObject,
)
from router.api.structured_types import JsonSchemaFormat, ResponseFormatBody
from router.api.wording import Wording
from router.config import LimitsSection
from router.errors import InvalidRequest
from router.requests import ChatRequest

_SERVED_TOOLS = ("function", "custom")
"""Custom ones are refused: a client that offers them counts on them."""
_PASSED_OVER = "passed_over"
WORDING = Wording(
    (r"tools\[(\d+)\]\.function\b", r"tools[\1]"),
    (r"\bresponse_format(?:\.json_schema)?\b", "text.format"),
    (r"\breasoning_effort\b", "reasoning.effort"),
)


def to_request(body: ResponseBody, limits: LimitsSection) -> ChatRequest:
    """Return what the body asks for, without its turns; raises InvalidRequest naming field and value."""
    _check(body)
    notes: list[str] = []
    if body.reasoning is not None and (body.reasoning.summary or body.reasoning.generate_summary):
        notes.append("reasoning.summary: the raw reasoning is given as content, no summary is made")
    with WORDING.spoken():
        request = to_chat_request(_chat_body(body), limits)
    return replace(request, notes=(*(WORDING.of(note) for note in request.notes), *notes))


def ignored_in(body: ResponseBody) -> list[str]:
    """Return the paths of what nothing reads: unknown fields, tools that are passed over, includes of such tools."""
    passed = [f"tools[{at}]" for at, tool in enumerate(body.tools or ()) if tool.type not in _SERVED_TOOLS]
    fields = [path for path in ignored_fields(body) if not path.startswith(tuple(f"{one}." for one in passed))]
    known = (LOGPROBS, ENCRYPTED_REASONING)
    return fields + passed + [f"include[{at}]" for at, name in enumerate(body.include or ()) if name not in known]


def has_logprobs(body: ResponseBody) -> bool:
    """Return whether the answer's logprobs are wanted."""
    return LOGPROBS in (body.include or ())


def offered_functions(body: ResponseBody) -> list[dict[str, Any]]:
    """Return the functions that are offered, as the response says them again."""
    return [
        {
            "type": "function",
            "name": tool.name,
            "description": tool.description,
            "parameters": tool.parameters,
            "strict": bool(tool.strict),
        }
        for tool in _allowed(body)
        if tool.type == "function"
    ]


def _check(body: ResponseBody) -> None:
    if (body.n or 1) != 1:
        raise InvalidRequest(f"n is {body.n}; a response has one answer.", "n", "invalid_value")
    if body.top_logprobs and not has_logprobs(body):
        message = f"top_logprobs needs include: ['{LOGPROBS}']."
        raise InvalidRequest(message, "top_logprobs", "invalid_value")
    if body.background and body.store is False:
        message = "background needs store: a response that nobody waits for has to be kept."
        raise InvalidRequest(message, "background", "invalid_value")
    if body.stream_options is not None and not body.stream:
        raise InvalidRequest("stream_options is for streams only: set stream.", "stream_options", "invalid_value")
    for at, tool in enumerate(body.tools or ()):
        if tool.type == "function" and tool.name is None:
            path = f"tools[{at}].name"
            raise InvalidRequest(f"{path} is missing.", path, "missing_required_parameter")


def _chat_body(body: ResponseBody) -> ChatBody:
    """Return the body in chat's words; its values were checked when the body was read."""
    sampling = {name: getattr(body, name) for name in SamplingBody.model_fields}
    text_format = body.text.format if body.text is not None else None
    return ChatBody.model_construct(
        **sampling,
        messages=[ChatMessage(role="user", content="")],
        tools=[_chat_tool(tool) for tool in _allowed(body)],
        tool_choice=_chat_choice(body.tool_choice),
        parallel_tool_calls=body.parallel_tool_calls,
        reasoning_effort=body.reasoning.effort if body.reasoning is not None else None,
        response_format=None if text_format is None else _chat_format(text_format),
        max_completion_tokens=body.max_output_tokens,
        logprobs=has_logprobs(body),
        top_logprobs=body.top_logprobs,
    )


def _allowed(body: ResponseBody) -> list[ResponseTool]:
    """Return the tools in their places, without those that the choice does not allow."""
    tools, choice = list(body.tools or ()), body.tool_choice
    if not isinstance(choice, ToolChoiceObject) or choice.type != "allowed_tools":
        return tools
    known = {tool.name for tool in tools if tool.type == "function"}
    names = {_function_name(one, f"tool_choice.tools[{at}]", known) for at, one in enumerate(choice.tools or ())}
    return [
        tool if tool.type != "function" or tool.name in names else ResponseTool(type=_PASSED_OVER) for tool in tools
    ]


def _function_name(named: NamedChoice, path: str, known: Iterable[str | None]) -> str | None:
    if named.type != "function" or named.name not in known:
        message = f"{path} is {named.type[:40]} {(named.name or '')[:64]!r}, which is no function among the tools."
        raise InvalidRequest(message, path, "invalid_value")
    return named.name


def _chat_tool(tool: ResponseTool) -> Tool:
    if tool.type != "function":
        return Tool(type=tool.type if tool.type in _SERVED_TOOLS else _PASSED_OVER)
    function = FunctionDefinition(
        name=tool.name or "", description=tool.description, parameters=tool.parameters, strict=tool.strict
    )
    return Tool(type="function", function=function)


def _chat_choice(choice: str | ToolChoiceObject | None) -> Any:
    if not isinstance(choice, ToolChoiceObject):
        return choice
    if choice.type == "allowed_tools":
        return choice.mode or "auto"
    if choice.type != "function" or choice.name is None:
        message = f"tool_choice.type is {choice.type[:40]!r}; a tool is named by {{type: function, name}}."
        raise InvalidRequest(message, "tool_choice.type", "unsupported_value")
    return NamedTool(type="function", function=CalledFunction(name=choice.name))


def _chat_format(wanted: TextFormat) -> ResponseFormatBody:
    if wanted.type != "json_schema":
        return ResponseFormatBody(type=wanted.type)
    for name, value in (("name", wanted.name), ("schema", wanted.schema_)):
        if value is None:
            path = f"text.format.{name}"
            raise InvalidRequest(f"{path} is missing.", path, "missing_required_parameter")
    schema = JsonSchemaFormat.model_validate(
        {
            "name": wanted.name,
            "description": wanted.description,
            "schema": wanted.schema_,
            "strict": wanted.strict,
        }
    )
    return ResponseFormatBody(type="json_schema", json_schema=schema)
