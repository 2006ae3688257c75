"""From Ollama's bodies to requests: put into chat's words, and what chat says of them back into Ollama's."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from router.api.body import checked_body, ignored_fields
from router.api.chat_request import ignored_tools, to_chat_request
from router.api.chat_types import ChatBody
from router.api.ollama_types import OllamaBody, OllamaChatBody, OllamaGenerateBody, OllamaMessage
from router.api.structured_types import answer_grammar
from router.api.whole_calls import to_text
from router.api.wording import Wording
from router.config import LimitsSection
from router.errors import InvalidRequest
from router.requests import ChatRequest, TextRequest

WORDING = Wording(
    (r"\bresponse_format(?:\.json_schema(?:\.schema)?)?", "format"),
    (r"^(temperature|top_p|top_k|min_p|seed|stop|presence_penalty|frequency_penalty)\b", r"options.\1"),
    (r"\bmax_completion_tokens\b", "options.num_predict"),
    (r"\brepetition_penalty\b", "options.repeat_penalty"),
    (r"^(messages\[\d+\])\.tool_call_id\b", r"\1.tool_name"),
)
_SAME_OPTIONS = ("temperature", "top_p", "top_k", "min_p", "stop", "presence_penalty", "frequency_penalty")
_PENALTIES = ("repeat_penalty", "presence_penalty", "frequency_penalty")
_NO_PENALTY = (None, 0, 1)
_NO_THINKING = "think: false is served as low effort without showing it; the model always reasons"
_TEXT_ONLY = "the model reads text only."


def chat_request(body: OllamaChatBody, limits: LimitsSection) -> ChatRequest:
    """Return what a chat asks for; raises InvalidRequest naming field and value."""
    return _request(body, _chat_messages(body.messages or []), limits)


def generate_request(body: OllamaGenerateBody, limits: LimitsSection) -> ChatRequest:
    """Return what a prompt asks for that is answered as a conversation; raises InvalidRequest."""
    _check_generate(body)
    system = [{"role": "system", "content": body.system}] if body.system else []
    return _request(body, [*system, {"role": "user", "content": body.prompt or ""}], limits)


def raw_request(body: OllamaGenerateBody, prompt_ids: tuple[int, ...], limits: LimitsSection) -> TextRequest:
    """Return what a prompt asks for that is continued as it is; raises InvalidRequest."""
    _check_generate(body)
    for name in ("system", "think"):
        if getattr(body, name):
            message = f"{name} has no place in a raw prompt, whose text is all there is."
            raise InvalidRequest(message, name, "invalid_value")
    if not prompt_ids:
        raise InvalidRequest("prompt has no tokens; it must have at least one.", "prompt", "invalid_value")
    asked = _chat_body(body, [{"role": "user", "content": ""}])
    options = to_chat_request(asked, limits).options
    return TextRequest((prompt_ids,), options, asked.model, grammar=answer_grammar(asked))


def shows_thinking(body: OllamaBody) -> bool:
    """Return whether the answer has the thinking."""
    return body.think is not False


def ignored_in(body: OllamaBody) -> list[str]:
    """Return the paths of what nothing reads: unknown fields and options, tools that are passed over."""
    return [*ignored_fields(body), *ignored_tools(body.tools if isinstance(body, OllamaChatBody) else None)]


def _request(body: OllamaBody, messages: list[dict[str, Any]], limits: LimitsSection) -> ChatRequest:
    request = to_chat_request(_chat_body(body, messages), limits)
    return request if shows_thinking(body) else replace(request, notes=(*request.notes, _NO_THINKING))


def _chat_body(body: OllamaBody, messages: list[dict[str, Any]]) -> ChatBody:
    options = {} if body.options is None else body.options.model_dump(exclude_none=True)
    _check_penalties(options)
    seed, num_predict = options.get("seed"), options.get("num_predict", 0)
    document: dict[str, Any] = {name: options.get(name) for name in _SAME_OPTIONS}
    document |= {
        "model": body.model.removesuffix(":latest"),
        "messages": messages,
        "seed": None if seed == -1 else seed,
        "max_completion_tokens": num_predict if num_predict > 0 else None,
        "repetition_penalty": options.get("repeat_penalty"),
        "reasoning_effort": "low" if body.think is False else body.think if isinstance(body.think, str) else None,
        "response_format": _format(body.format),
        "logprobs": body.logprobs,
        "top_logprobs": body.top_logprobs,
    }
    if isinstance(body, OllamaChatBody):
        document["tools"] = body.tools
    return checked_body(document, ChatBody)


def _check_penalties(options: dict[str, Any]) -> None:
    """Refuse to penalize anything but all tokens; without a penalty it makes no difference."""
    if all(options.get(name) in _NO_PENALTY for name in _PENALTIES):
        return
    for name, served in (("repeat_last_n", -1), ("penalize_newline", True)):
        if options.get(name, served) != served:
            path, value = f"options.{name}", json.dumps(options[name])
            message = f"{path} is {value}; penalties are of all tokens, which is {json.dumps(served)}."
            raise InvalidRequest(message, path, "unsupported_value")


def _format(wanted: str | dict[str, Any] | None) -> dict[str, Any] | None:
    if not wanted:
        return None
    if isinstance(wanted, str):
        return {"type": "json_object"}
    return {"type": "json_schema", "json_schema": {"name": "format", "schema": wanted}}


def _check_generate(body: OllamaGenerateBody) -> None:
    for name, why in (
        ("suffix", "the model continues, it does not fill in."),
        ("template", "prompts are rendered in the harmony format only."),
        ("context", "use /api/chat, which takes the earlier messages."),
        ("images", _TEXT_ONLY),
    ):
        if getattr(body, name):
            raise InvalidRequest(f"{name} is not supported: {why}", name, "unsupported_parameter")


def _chat_messages(messages: Sequence[OllamaMessage]) -> list[dict[str, Any]]:
    """Return messages in chat's words. Their calls have ids there; here results name their tool, or come in order."""
    found: list[dict[str, Any]] = []
    open_calls: list[tuple[str, str]] = []
    for place, message in enumerate(messages):
        if message.images:
            path = f"messages[{place}].images"
            raise InvalidRequest(f"{path} is not supported: {_TEXT_ONLY}", path, "unsupported_value")
        one: dict[str, Any] = {"role": message.role, "content": message.content or ""}
        if message.role == "assistant":
            calls = [_call(message, place, at) for at in range(len(message.tool_calls or ()))]
            open_calls = [(call["id"], call["function"]["name"]) for call in calls] or open_calls
            one |= {"reasoning": message.thinking, "tool_calls": calls or None}
        elif message.role == "tool":
            one["tool_call_id"] = _answered(message, open_calls)
        elif message.role == "user":
            one["name"] = message.name
        found.append(one)
    return found


def _call(message: OllamaMessage, place: int, at: int) -> dict[str, Any]:
    call = (message.tool_calls or [])[at]
    function = {"name": call.function.name, "arguments": to_text(call.function.arguments)}
    return {"id": call.id or f"call {place} {at}", "type": "function", "function": function}


def _answered(message: OllamaMessage, open_calls: list[tuple[str, str]]) -> str:
    """Return the id of the call whose result a message is, and take it from the calls that are open."""
    name = message.tool_name or message.name
    for place, (call_id, tool) in enumerate(open_calls):
        if message.tool_call_id == call_id or (message.tool_call_id is None and name in (None, tool)):
            del open_calls[place]
            return call_id
    return message.tool_call_id or name or ""
