"""What clients ask while processes are struck: requests of all kinds, each with a seed. Values only."""

from dataclasses import dataclass
from typing import Any

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
_STRICT_TOOL: dict[str, Any] = {"type": "function", "function": {**_TOOL["function"], "strict": True}}
_SCHEMA: dict[str, Any] = {"type": "object", "properties": {"answer": {"type": "integer"}}, "required": ["answer"]}
_LONG = "Seven ships left the harbour at dawn, and nobody on the pier could say where they were bound. "


@dataclass(frozen=True, slots=True)
class Question:
    """One call of the HTTP API."""

    name: str
    path: str
    body: dict[str, Any]

    @property
    def is_stream(self) -> bool:
        """Return whether the answer comes in pieces."""
        return bool(self.body.get("stream"))


def questions() -> list[Question]:
    """Return twenty: greedy, sampled, tool calls, several choices, long prompts, grammars; most of them streams."""
    return [
        *(_completion(f"sampled stream {seed}", seed, stream=True) for seed in range(6)),
        *(_completion(f"greedy stream {seed}", seed, stream=True, temperature=0) for seed in range(2)),
        *(_completion(f"long prompt {times}", times, prompt=_LONG * times, stream=True) for times in (10, 30)),
        *(_completion(f"whole {seed}", seed) for seed in range(2)),
        _completion("two choices", 3, n=2, stream=True),
        _chat("chat stream", "What colour is the sky?", 1, stream=True),
        _chat("chat whole", "Tell me a joke", 2),
        _chat("tool call stream", "What is the weather in Lisbon?", 3, tools=[_TOOL], stream=True),
        _chat("tool call whole", "What is the weather in Oslo?", 4, tools=[_TOOL]),
        _chat("tool required", "Hello", 5, tools=[_STRICT_TOOL], tool_choice="required", stream=True),
        _chat("JSON schema", "What is 3 + 4?", 6, response_format=_schema_format(), stream=True),
        _chat("regex", "What is 3 + 4?", 7, guided_regex="[a-f]{3}-\\d{4}", stream=True),
    ]


def _completion(name: str, seed: int, **options: Any) -> Question:
    body = {"prompt": "Once upon a time", "max_tokens": 80, "temperature": 1.5, "ignore_eos": True, "logprobs": 2}
    return Question(name, COMPLETIONS, {**body, "seed": seed, **options})


def _chat(name: str, text: str, seed: int, **options: Any) -> Question:
    body = {"messages": [{"role": "user", "content": text}], "max_completion_tokens": 96, "temperature": 1.2}
    return Question(name, CHAT, {**body, "seed": seed, "logprobs": True, "top_logprobs": 2, **options})


def _schema_format() -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": _SCHEMA}}
