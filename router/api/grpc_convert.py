"""Between the messages of `expertmesh.inference.v1` and the service's values.

Requests go through the very bodies of the HTTP API, so that both are checked, limited and refused alike, with the same
names for fields; answers are the same pieces.
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any

from model.sampling_params import TokenLogprob
from protos import inference_pb2 as pb
from router.api.body import parse_body
from router.api.chat_reply import MessagePieces
from router.api.chat_types import ChatBody
from router.api.completion_types import CompletionBody
from router.errors import InvalidRequest
from router.requests import ChatUpdate, Finish, Started, TextUpdate, Usage

_ROLES = {
    pb.ROLE_SYSTEM: "system",
    pb.ROLE_DEVELOPER: "developer",
    pb.ROLE_USER: "user",
    pb.ROLE_ASSISTANT: "assistant",
    pb.ROLE_TOOL: "tool",
}
_MODES = {pb.TOOL_MODE_AUTO: "auto", pb.TOOL_MODE_NONE: "none", pb.TOOL_MODE_REQUIRED: "required"}
_FINISHES = {
    Finish.STOP: pb.FINISH_REASON_STOP,
    Finish.LENGTH: pb.FINISH_REASON_LENGTH,
    Finish.TOOL_CALLS: pb.FINISH_REASON_TOOL_CALLS,
}
_SAME_NAMES = (
    "max_tokens",
    "seed",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "min_tokens",
    "priority",
)
"""Optional fields of Sampling that the HTTP API has under the same name."""


def chat_body(request: pb.ChatRequest) -> ChatBody:
    """Return the HTTP body that says the same; raises InvalidRequest naming field and value."""
    body = _sampling(request.sampling) | {
        "model": request.model or None,
        "messages": [_message(message, place) for place, message in enumerate(request.messages)],
        "tools": [_tool(tool, place) for place, tool in enumerate(request.tools)],
        "tool_choice": _tool_choice(request.tool_choice),
        "reasoning_effort": request.reasoning_effort or None,
    }
    if request.sampling.HasField("num_logprobs"):
        body |= {"logprobs": True, "top_logprobs": request.sampling.num_logprobs}
    if request.HasField("response_format"):
        given = request.response_format
        schema = _json(given.schema_json, "response_format.schema_json")
        body["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": given.name, "description": given.description, "schema": schema},
        }
    return parse_body(json.dumps(body).encode(), ChatBody)


def generate_body(request: pb.GenerateRequest) -> CompletionBody:
    """Return the HTTP body that says the same; raises InvalidRequest naming field and value."""
    body = _sampling(request.sampling) | {"model": request.model or None}
    body["prompt"] = list(request.token_ids.ids) if request.HasField("token_ids") else request.text
    if request.sampling.HasField("num_logprobs"):
        body["logprobs"] = request.sampling.num_logprobs
    return parse_body(json.dumps(body).encode(), CompletionBody)


def started_message(started: Started) -> pb.Started:
    """Return the first message of a stream."""
    return pb.Started(
        request_id=started.request_id,
        model=started.model,
        system_fingerprint=started.fingerprint,
        seed=started.seed,
        num_prompt_tokens=started.num_prompt_tokens,
        notes=started.notes,
    )


def usage_message(usage: Usage) -> pb.Usage:
    """Return the last message of a stream."""
    return pb.Usage(
        num_prompt_tokens=usage.num_prompt,
        num_cached_tokens=usage.num_cached,
        num_completion_tokens=usage.num_completion,
        num_reasoning_tokens=usage.num_reasoning,
    )


def chat_messages(update: ChatUpdate, pieces: MessagePieces) -> Iterator[pb.ChatResponse]:
    """Yield what an update adds: reasoning, content, calls, in this order, then the end of the choice."""
    piece, choice = pieces.piece(update), update.choice
    if piece.get("reasoning"):
        yield pb.ChatResponse(delta=pb.ChatDelta(choice=choice, reasoning=piece.get("reasoning")))
    if piece.get("content") or update.logprobs:
        logprobs = _logprobs(update.logprobs)
        yield pb.ChatResponse(delta=pb.ChatDelta(choice=choice, content=piece.get("content") or "", logprobs=logprobs))
    for call in piece.get("tool_calls", []):
        delta = pb.ToolCallDelta(
            index=call.get("index", 0),
            id=call.get("id", ""),
            name=call["function"].get("name", ""),
            arguments=call["function"]["arguments"],
        )
        yield pb.ChatResponse(delta=pb.ChatDelta(choice=choice, tool_call=delta))
    if update.finish is not None:
        yield pb.ChatResponse(finished=pb.Finished(choice=choice, reason=_FINISHES[update.finish]))


def text_messages(update: TextUpdate) -> Iterator[pb.GenerateResponse]:
    """Yield what an update adds, then the end of the choice."""
    if update.text or update.token_ids:
        delta = pb.TextDelta(
            choice=update.choice,
            text=update.text,
            token_ids=update.token_ids,
            logprobs=_logprobs(update.logprobs),
        )
        yield pb.GenerateResponse(delta=delta)
    if update.finish is not None:
        yield pb.GenerateResponse(finished=pb.Finished(choice=update.choice, reason=_FINISHES[update.finish]))


def _sampling(sampling: pb.Sampling) -> dict[str, Any]:
    body: dict[str, Any] = {name: getattr(sampling, name) for name in _SAME_NAMES if sampling.HasField(name)}
    if sampling.HasField("num_choices"):
        body["n"] = sampling.num_choices
    body["logit_bias"] = {str(token_id): bias for token_id, bias in sampling.logit_bias.items()}
    body["stop"] = list(sampling.stop)
    body["stop_token_ids"] = list(sampling.stop_token_ids)
    body["ignore_eos"] = sampling.ignore_eos
    body["structured_outputs"] = _structure(sampling.structure)
    return body


def _structure(structure: pb.Structure) -> dict[str, Any] | None:
    match structure.WhichOneof("kind"):
        case "json_schema":
            return {"json": structure.json_schema}
        case "json_object":
            return {"json_object": structure.json_object}
        case "regex":
            return {"regex": structure.regex}
        case "choices":
            return {"choice": list(structure.choices.texts)}
        case "grammar":
            return {"grammar": structure.grammar}
        case _:
            return None


def _message(message: pb.Message, place: int) -> dict[str, Any]:
    if message.role not in _ROLES:
        path = f"messages[{place}].role"
        raise InvalidRequest(f"{path} is not set.", path, "missing_required_parameter")
    calls = [
        {"id": call.id, "function": {"name": call.name, "arguments": call.arguments}} for call in message.tool_calls
    ]
    return {
        "role": _ROLES[message.role],
        "content": message.content,
        "name": message.name or None,
        "reasoning": message.reasoning or None,
        "tool_calls": calls or None,
        "tool_call_id": message.tool_call_id or None,
    }


def _tool(tool: pb.Tool, place: int) -> dict[str, Any]:
    if tool.HasField("python"):
        return {"type": "python"}
    function = tool.function
    schema = function.parameters_json
    parameters = _json(schema, f"tools[{place}].function.parameters_json") if schema else None
    definition = {"name": function.name, "description": function.description, "parameters": parameters}
    return {"type": "function", "function": {**definition, "strict": function.strict}}


def _tool_choice(choice: pb.ToolChoice) -> Any:
    if choice.mode not in _MODES:
        raise InvalidRequest(
            f"tool_choice.mode is {choice.mode}, which is no mode.", "tool_choice.mode", "invalid_value"
        )
    if choice.mode == pb.TOOL_MODE_REQUIRED and choice.name:
        return {"type": "function", "function": {"name": choice.name}}
    return None if choice.mode == pb.TOOL_MODE_AUTO else _MODES[choice.mode]


def _json(text: str, path: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"{path} is not JSON: {error}", path, "invalid_json") from error


def _logprobs(logprobs: Iterable[TokenLogprob]) -> list[pb.TokenLogprob]:
    return [
        pb.TokenLogprob(
            token_id=one.token_id,
            logprob=one.logprob,
            top=[pb.TopLogprob(token_id=token_id, logprob=logprob) for token_id, logprob in one.top],
        )
        for one in logprobs
    ]
