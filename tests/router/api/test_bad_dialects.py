"""No body makes a 5xx at Ollama's and Anthropic's routes, and every refusal has the shape of its family."""

import json
import random
from typing import Any

import pytest

from tests.router.api.test_bad_responses import mutated
from tests.router.api.test_openai_client import TOOLS as CHAT_TOOLS
from tests.router.fakes.asgi_client import HI, AsgiClient
from tests.router.fakes.hand_backend import HandBackend
from tests.router.fakes.scripts import answer

NUM_FUZZED = 300
SCHEMA: dict[str, Any] = {"type": "object", "properties": {"city": {"type": "string"}}}
FUNCTION_CALL = {"function": {"name": "get_weather", "arguments": {"city": "Oslo"}}}
OPTIONS: dict[str, Any] = {"temperature": 0.5, "top_k": 3, "seed": 1, "num_predict": 9, "stop": ["x"], "num_ctx": 64}
USED = {"type": "tool_use", "id": "1", "name": "get_weather", "input": {"city": "Oslo"}}
RESULT = {"type": "tool_result", "tool_use_id": "1", "content": [{"type": "text", "text": "sunny"}], "is_error": False}
THOUGHT = {"type": "thinking", "thinking": "Hm.", "signature": "s"}
MESSAGES: dict[str, Any] = {
    "model": "hand",
    "system": [{"type": "text", "text": "Be kind.", "cache_control": {"type": "ephemeral"}}],
    "messages": [*HI, {"role": "assistant", "content": [THOUGHT, USED]}, {"role": "user", "content": [RESULT]}],
    "tools": [{"name": "get_weather", "input_schema": SCHEMA}, {"type": "web_search_20250305", "name": "web_search"}],
    "tool_choice": {"type": "auto", "disable_parallel_tool_use": False},
    "thinking": {"type": "enabled", "budget_tokens": 2000},
    "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": SCHEMA}},
}
GOOD: dict[str, dict[str, Any]] = {
    "/api/chat": {
        "model": "hand",
        "messages": [*HI, {"role": "assistant", "thinking": "Hm.", "tool_calls": [FUNCTION_CALL]},
                     {"role": "tool", "tool_name": "get_weather", "content": "sunny"}],
        "tools": CHAT_TOOLS, "format": SCHEMA, "options": OPTIONS, "think": "low", "stream": False, "keep_alive": "5m",
    },
    "/api/generate": {
        "model": "hand", "prompt": "Hi", "system": "Be kind.", "format": "json", "options": OPTIONS, "think": True,
        "stream": False, "raw": False, "keep_alive": 5, "suffix": None, "images": None,
    },
    "/api/show": {"model": "hand", "verbose": True},
    "/v1/messages": MESSAGES | {
        "max_tokens": 50, "temperature": 0.5, "top_p": 0.9, "top_k": 3, "stop_sequences": ["x"], "stream": False,
        "metadata": {"user_id": "u"}, "service_tier": "auto",
    },
    "/v1/messages/count_tokens": MESSAGES,
}  # fmt: skip


@pytest.fixture(scope="module")
def client() -> AsgiClient:
    return AsgiClient(HandBackend(answer("A")))


def assert_shape(path: str, told: dict[str, Any]) -> None:
    if path.startswith("/api"):
        assert told.keys() == {"error"}
        assert isinstance(told["error"], str)
    else:
        assert told.keys() == {"type", "error"}
        assert told["error"].keys() == {"type", "message"}


@pytest.mark.parametrize("path", GOOD)
def test_no_body_makes_a_failure_of_ours(client: AsgiClient, path: str) -> None:
    draw = random.Random(7)
    assert client.request("POST", path, json=GOOD[path]).status_code == 200
    statuses: set[int] = set()
    for number in range(NUM_FUZZED):
        body: Any = GOOD[path]
        for _ in range(draw.randint(1, 3)):
            body = mutated(body, draw)
        response = client.request("POST", path, content=json.dumps(body).encode())
        statuses.add(response.status_code)
        assert response.status_code in (200, 400, 404), (number, body, response.text)
        if response.status_code != 200:
            assert_shape(path, response.json())
    assert {200, 400} <= statuses


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"[" * 100_000, b'{"a":' * 100_000, b"\xff\xfe", b'{"model": "\\ud800"}'],
    ids=["empty", "cut", "list", "null", "deep list", "deep object", "no utf-8", "half a pair"],
)
@pytest.mark.parametrize("path", GOOD)
def test_a_body_that_is_no_json_object_is_a_400(client: AsgiClient, path: str, content: bytes) -> None:
    response = client.request("POST", path, content=content)

    assert response.status_code == 400
    assert_shape(path, response.json())


@pytest.mark.parametrize("path", GOOD)
def test_every_limit_of_the_server_holds(path: str) -> None:
    limits = {"max_messages": 1, "max_tools": 1}
    client = AsgiClient(HandBackend(answer("A")), limits=limits, http={"max_body_bytes": 2000, "max_header_bytes": 500})
    headers = client.request("POST", path, json=GOOD[path], headers={"x-large": "x" * 600})
    body = client.request("POST", path, json=GOOD[path] | {"padding": "x" * 3000})
    assert (headers.status_code, body.status_code) == (431, 413)
    assert_shape(path, headers.json())
    assert_shape(path, body.json())
    if "messages" in GOOD[path]:
        told = client.request("POST", path, json=GOOD[path])
        assert told.status_code == 400
        assert "messages has" in told.text


def test_the_document_describes_what_is_answered(client: AsgiClient) -> None:
    document = client.request("GET", "/openapi.json").json()
    for path in GOOD:
        operation = document["paths"][path]["post"]
        assert {"200", "400", "401", "403", "404", "408", "413", "429", "431", "500", "503", "504"} == set(
            operation["responses"]
        )
        error = "OllamaErrorBody" if path.startswith("/api") else "AnthropicErrorBody"
        assert error in json.dumps(operation["responses"]["400"])
    kinds = {path: set(document["paths"][path]["post"]["responses"]["200"]["content"]) for path in GOOD}
    assert kinds["/api/chat"] == {"application/json", "application/x-ndjson"}
    assert kinds["/v1/messages"] == {"application/json", "text/event-stream"}
