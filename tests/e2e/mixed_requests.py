"""Fifty requests of different kinds with seeds, and what is compared of their answers."""

from dataclasses import dataclass
from typing import Any

import httpx

WEATHER_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "The city."}},
            "required": ["city"],
        },
    },
}
WORDS = "The quick brown fox jumps over the lazy dog while the old captain counts his seven maps. "


@dataclass(frozen=True)
class MixedRequest:
    """One call of the HTTP API."""

    name: str
    path: str
    body: dict[str, Any]


def mixed_requests() -> list[MixedRequest]:
    """Return fifty requests: greedy and sampled, chat and completion, tools, several choices, long prompts, stops."""
    requests = [
        *(_sum(a, b, seed) for seed, (a, b) in enumerate(((17, 25), (8, 7), (90, 9), (33, 44), (5, 61), (12, 12)))),
        *(_effort(effort, seed) for seed, effort in enumerate(("low", "medium", "high") * 2)),
        *(_tool(city, seed) for seed, city in enumerate(("Lisbon", "Oslo", "Lima", "Cairo", "Rome", "Baku"))),
        *(_tool_result(degrees) for degrees in (7, 19, 31, 44)),
        *(_choices(seed) for seed in range(4)),
        *(_long_prompt(repeats, seed) for seed, repeats in enumerate((2, 8, 20, 40, 60, 80))),
        *(_completion(seed) for seed in range(8)),
        *(_stopped(stop) for stop in (".", "the", " is")),
        *(_penalized(seed) for seed in range(4)),
        _json(0),
        _regex(1),
        _required(2),
    ]
    assert len(requests) == 50, len(requests)
    return requests


def _chat(name: str, messages: list[dict[str, Any]], **options: Any) -> MixedRequest:
    body = {"messages": messages, "max_completion_tokens": 96, "logprobs": True, "top_logprobs": 3, **options}
    return MixedRequest(name, "/v1/chat/completions", body)


def _user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def _sum(a: int, b: int, seed: int) -> MixedRequest:
    return _chat(f"sum {a}+{b}", [_user(f"What is {a} + {b}?")], temperature=0, seed=seed)


def _effort(effort: str, seed: int) -> MixedRequest:
    messages = [{"role": "system", "content": "You are a helpful assistant."}, _user("What colour is the sky?")]
    return _chat(f"{effort} effort {seed}", messages, reasoning_effort=effort, temperature=1.0, seed=seed)


def _tool(city: str, seed: int) -> MixedRequest:
    messages = [_user(f"What is the weather in {city}?")]
    return _chat(f"tool {city}", messages, tools=[WEATHER_TOOL], temperature=0.7, seed=seed)


def _tool_result(degrees: int) -> MixedRequest:
    call = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Lisbon"}'}}
    messages = [
        _user("What is the weather in Lisbon?"),
        {"role": "assistant", "tool_calls": [call], "reasoning": "I call get_weather."},
        {"role": "tool", "tool_call_id": "call_1", "content": f'{{"condition": "sunny", "temperature": {degrees}}}'},
    ]
    return _chat(f"tool result {degrees}", messages, tools=[WEATHER_TOOL], temperature=0, seed=degrees)


def _choices(seed: int) -> MixedRequest:
    return _chat(f"three choices {seed}", [_user("Tell me a joke")], n=3, temperature=1.5, seed=seed)


def _long_prompt(repeats: int, seed: int) -> MixedRequest:
    messages = [_user(WORDS * repeats + "What is the capital of France?")]
    return _chat(f"long prompt {repeats}", messages, temperature=1.5, seed=seed, max_completion_tokens=24)


def _completion(seed: int) -> MixedRequest:
    body = {
        "prompt": WORDS * (1 + seed % 3),
        "max_tokens": 40,
        "temperature": 1.5,
        "top_p": 1.0 if seed % 2 else 0.9,
        "seed": seed,
        "logprobs": 2,
    }
    return MixedRequest(f"completion {seed}", "/v1/completions", body)


def _stopped(stop: str) -> MixedRequest:
    return _chat(f"stop {stop!r}", [_user("Who are you?")], stop=[stop], temperature=0, seed=1)


def _penalized(seed: int) -> MixedRequest:
    options = {"frequency_penalty": 0.5, "presence_penalty": 0.3, "logit_bias": {"976": -3}}
    return _chat(f"penalties {seed}", [_user("Hello")], temperature=1.2, seed=seed, **options)


def _json(seed: int) -> MixedRequest:
    schema = {"type": "object", "properties": {"answer": {"type": "integer"}}, "required": ["answer"]}
    response_format = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    return _chat(f"json {seed}", [_user("What is 3 + 4?")], response_format=response_format, temperature=1.5, seed=seed)


def _regex(seed: int) -> MixedRequest:
    return _chat(f"regex {seed}", [_user("What is 3 + 4?")], guided_regex="[a-f]{3}-\\d{4}", temperature=1.5, seed=seed)


def _required(seed: int) -> MixedRequest:
    tool = {"type": "function", "function": {**WEATHER_TOOL["function"], "strict": True}}
    options = {"tools": [tool], "tool_choice": "required", "temperature": 1.5, "seed": seed, "n": 2}
    return _chat(f"required {seed}", [_user("Hello")], **options)


def comparable(answer: httpx.Response) -> dict[str, Any]:
    """Return what must be equal everywhere: choices whole, token counts; not ids, not times, not cached counts."""
    body = answer.json()
    assert answer.status_code == httpx.codes.OK, body
    choices = [_without_call_ids(choice) for choice in body["choices"]]
    usage = {key: body["usage"][key] for key in ("prompt_tokens", "completion_tokens", "total_tokens")}
    return {"choices": choices, "usage": usage}


def _without_call_ids(choice: dict[str, Any]) -> dict[str, Any]:
    message = choice.get("message", {})
    calls = [{key: value for key, value in call.items() if key != "id"} for call in message.get("tool_calls") or []]
    return {**choice, "message": {**message, "tool_calls": calls}} if calls else choice
