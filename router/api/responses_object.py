"""The response object: what is known of it before its first token, and how one is told again as events."""

from collections.abc import Iterator
from typing import Any, cast

from model.tokenizer import Tokenizer
from router.api.responses_answers import Item, ResponseAnswer
from router.api.responses_events import Event, ResponseWriter
from router.api.responses_request import offered_functions
from router.api.responses_types import ResponseBody
from router.harmony.deltas import (
    CallBegun,
    CallDelta,
    ContentDelta,
    Delta,
    Ending,
    MessageBegun,
    MessageEnded,
    MessageKind,
    ReasoningDelta,
)
from router.requests import ChatRequest, ChatUpdate, Finish, Started

_KINDS = {"commentary": MessageKind.PREAMBLE, "final_answer": MessageKind.ANSWER}


def new_response(body: ResponseBody, request: ChatRequest, started: Started, response_id: str) -> ResponseAnswer:
    """Return the response object of a request that was taken: nothing said yet, defaults filled in."""
    is_background = bool(body.background)
    return {
        "id": response_id,
        "object": "response",
        "created_at": started.created_s,
        "completed_at": None,
        "status": "queued" if is_background else "in_progress",
        "background": is_background,
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "max_tool_calls": body.max_tool_calls,
        "metadata": dict(body.metadata or {}),
        "model": started.model,
        "output": [],
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": body.previous_response_id,
        "prompt_cache_key": body.prompt_cache_key,
        "reasoning": {"effort": request.conversation.effort.value, "summary": None},
        "safety_identifier": body.safety_identifier,
        "seed": started.seed,
        "service_tier": "default",
        "store": body.store is not False,
        "system_fingerprint": started.fingerprint,
        "temperature": request.options.temperature,
        "text": _text(body),
        "tool_choice": _tool_choice(body),
        "tools": offered_functions(body),
        "top_logprobs": body.top_logprobs or 0,
        "top_p": request.options.top_p,
        "presence_penalty": request.options.presence_penalty,
        "frequency_penalty": request.options.frequency_penalty,
        "truncation": body.truncation or "disabled",
        "usage": None,
        "user": body.user,
    }


def told_again(response: ResponseAnswer, tokenizer: Tokenizer) -> Iterator[Event]:
    """Yield the events of a response that was made without a stream: each text comes in one piece."""
    opening = cast(
        ResponseAnswer,
        {**response, "status": "in_progress", "output": [], "usage": None, "completed_at": None}
        | {"error": None, "incomplete_details": None},
    )
    writer = ResponseWriter(opening, tokenizer, has_logprobs=False, seal=None)
    yield from writer.begin()
    num_events = 2
    for place, item in enumerate(response["output"]):
        finish = Finish.LENGTH if item.get("status") == "incomplete" else None
        for event in writer.on(ChatUpdate(0, tuple(_deltas(item, place)), finish=finish)):
            num_events += 1
            yield {**event, "item": item} if event["type"] == "response.output_item.done" else event
    kind = "incomplete" if response["status"] == "cancelled" else response["status"]
    yield {"type": f"response.{kind}", "sequence_number": num_events, "response": response}


def _deltas(item: Item, message: int) -> Iterator[Delta]:
    text = "".join(part.get("text", "") for part in item.get("content", []))
    if item["type"] == "function_call":
        yield MessageBegun(message, MessageKind.CALL)
        yield CallBegun(message, 0, item.get("name", ""))
        yield CallDelta(message, 0, item.get("arguments", ""), ())
    elif item["type"] == "reasoning":
        yield MessageBegun(message, MessageKind.REASONING)
        yield ReasoningDelta(message, text, ())
    else:
        yield MessageBegun(message, _KINDS[item.get("phase", "final_answer")])
        if text:
            yield ContentDelta(message, text, ())
    yield MessageEnded(message, Ending.CUT if item.get("status") == "incomplete" else Ending.END)


def _text(body: ResponseBody) -> dict[str, Any]:
    wanted = body.text.format if body.text is not None else None
    if wanted is None or wanted.type != "json_schema":
        return {"format": {"type": wanted.type if wanted is not None else "text"}, "verbosity": "medium"}
    schema = {"type": wanted.type, "name": wanted.name, "description": wanted.description}
    return {"format": {**schema, "schema": wanted.schema_, "strict": bool(wanted.strict)}, "verbosity": "medium"}


def _tool_choice(body: ResponseBody) -> Any:
    choice = body.tool_choice
    if choice is None or isinstance(choice, str):
        return choice or "auto"
    return choice.model_dump(exclude_none=True)
