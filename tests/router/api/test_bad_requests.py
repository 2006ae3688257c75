"""What is refused, and how: OpenAI's error body naming field and value, at once, whatever was sent."""

import json
import re
import time
from typing import Any

import pytest

from tests.router.fakes.asgi_client import HI, AsgiClient
from tests.router.fakes.hand_backend import HandBackend
from tests.router.fakes.scripts import answer

FUNCTION: dict[str, Any] = {"type": "function", "function": {"name": "f"}}


@pytest.fixture(scope="module")
def client() -> AsgiClient:
    return AsgiClient(HandBackend(answer("A")))


BAD_CHATS: list[tuple[str, dict[str, Any]]] = [
    ("messages", {"messages": []}),
    ("messages", {"messages": "Hi"}),
    ("messages[0].role", {"messages": [{"role": "king", "content": "Hi"}]}),
    ("messages[0].role", {"messages": [{"content": "Hi"}]}),
    ("messages[0].content", {"messages": [{"role": "user"}]}),
    ("messages[0].content", {"messages": [{"role": "user", "content": 5}]}),
    ("messages[0].content[0].type", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
    ("messages[0].content[0].text", {"messages": [{"role": "user", "content": [{"type": "text"}]}]}),
    ("messages[0].name", {"messages": [{"role": "user", "content": "Hi", "name": "a b"}]}),
    ("messages[0].tool_call_id", {"messages": [{"role": "tool", "content": "x"}]}),
    ("messages[0].tool_call_id", {"messages": [{"role": "tool", "content": "x", "tool_call_id": "nobody"}]}),
    ("messages[0].tool_calls[0].function.name", {"messages": [{"role": "assistant", "tool_calls": [
        {"id": "1", "function": {"name": "a<|end|>b"}}]}]}),
    ("temperature", {"temperature": -0.1}),
    ("temperature", {"temperature": 1e308}),
    ("temperature", {"temperature": "warm"}),
    ("top_p", {"top_p": 1.01}),
    ("presence_penalty", {"presence_penalty": -3}),
    ("frequency_penalty", {"frequency_penalty": 9}),
    ("repetition_penalty", {"repetition_penalty": 0}),
    ("n", {"n": 0}),
    ("n", {"n": 17}),
    ("n", {"n": 10**9}),
    ("n", {"n": 10**30}),
    ("n", {"n": 1.5}),
    ("seed", {"seed": 2**63}),
    ("seed", {"seed": "x"}),
    ("max_tokens", {"max_tokens": 0}),
    ("max_tokens", {"max_tokens": -5}),
    ("max_tokens", {"max_tokens": 10**40}),
    ("max_completion_tokens", {"max_completion_tokens": 0}),
    ("max_tokens", {"max_completion_tokens": 5, "max_tokens": 6}),
    ("top_logprobs", {"top_logprobs": 3}),
    ("top_logprobs", {"logprobs": True, "top_logprobs": 21}),
    ("stop", {"stop": [""]}),
    ("stop", {"stop": ["a"] * 17}),
    ("stop", {"stop": "a" * 5000}),
    ("logit_bias", {"logit_bias": {"-1": 1}}),
    ("logit_bias", {"logit_bias": {"201088": 1}}),
    ("logit_bias.5", {"logit_bias": {"5": 101}}),
    ("stream_options", {"stream_options": {"include_usage": True}}),
    ("reasoning_effort", {"reasoning_effort": "extreme"}),
    ("response_format.type", {"response_format": {"type": "xml"}}),
    ("response_format.json_schema", {"response_format": {"type": "json_schema"}}),
    ("response_format.json_schema.name", {"response_format": {"type": "json_schema", "json_schema": {"name": "a b"}}}),
    ("tools[0].function", {"tools": [{"type": "function"}]}),
    ("tools[0].function.name", {"tools": [{"type": "function", "function": {"name": "a b"}}]}),
    ("tools[0].function.name", {"tools": [{"type": "function", "function": {"name": ""}}]}),
    ("tools[1].function.name", {"tools": [FUNCTION, FUNCTION]}),
    ("tools[1].function.name", {"tools": [{"type": "python"}, {"type": "function", "function": {"name": "python"}}]}),
    ("tools[0].type", {"tools": [{"type": "custom", "custom": {"name": "x"}}]}),
    ("tools[0].function.parameters.properties.p.$ref", {"tools": [{"type": "function", "function": {
        "name": "f", "parameters": {"type": "object", "properties": {"p": {"$ref": "#/no"}}}}}]}),
    ("tool_choice", {"tool_choice": "required"}),
    ("tool_choice", {"tools": [FUNCTION], "tool_choice": "always"}),
    ("tool_choice", {"tools": [FUNCTION], "tool_choice": {"type": "function", "function": {"name": "g"}}}),
    ("tool_choice.type", {"tools": [FUNCTION], "tool_choice": {"type": "allowed_tools", "allowed_tools": {}}}),
    ("model", {"model": 5}),
    ("modalities[0]", {"modalities": ["audio"]}),
    ("verbosity", {"verbosity": "high"}),
    ("service_tier", {"service_tier": "flex"}),
    ("chat_template", {"chat_template": "{{ x }}"}),
    ("chat_template_kwargs", {"chat_template_kwargs": {"tokenize": True}}),
    ("functions", {"functions": []}),
    ("audio", {"audio": {"voice": "x"}}),
    ("prediction", {"prediction": {"type": "content"}}),
    ("guided_json", {"guided_json": 5}),
    ("guided_regex", {"guided_regex": ""}),
    ("guided_choice", {"guided_choice": []}),
    ("guided_choice[1]", {"guided_choice": ["a", ""]}),
    ("guided_grammar", {"guided_regex": "a", "guided_grammar": "start: A"}),
    ("guided_choice", {"response_format": {"type": "json_object"}, "guided_choice": ["a"]}),
    ("structured_outputs.structural_tag", {"structured_outputs": {"structural_tag": "x"}}),
    ("ignore_eos", {"response_format": {"type": "json_object"}, "ignore_eos": True}),
    ("best_of", {"best_of": 2}),
]  # fmt: skip


@pytest.mark.parametrize(("param", "fields"), BAD_CHATS, ids=lambda value: str(value)[:60])
def test_a_bad_chat_is_a_400_that_names_the_field(client: AsgiClient, param: str, fields: dict[str, Any]) -> None:
    response = client.chat(**fields)

    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"
    assert error["code"]
    field = re.split(r"[.\[]", param, maxsplit=1)[0]
    assert field in error["message"]


def test_the_value_is_named_too(client: AsgiClient) -> None:
    assert "17" in client.chat(n=17).json()["error"]["message"]
    assert "-3.5" in client.chat(presence_penalty=-3.5).json()["error"]["message"]
    assert "x y" in client.chat(messages=[{"role": "user", "content": "", "name": "x y"}]).json()["error"]["message"]
    assert client.chat(messages=None).json()["error"]["message"].endswith("(value: null)")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
@pytest.mark.parametrize(
    "field", ["temperature", "top_p", "min_p", "presence_penalty", "n", "seed", "max_tokens", "top_k"]
)
def test_numbers_that_are_none_are_refused(client: AsgiClient, field: str, number: str) -> None:
    body = f'{{"messages": {json.dumps(HI)}, "{field}": {number}}}'.encode()

    response = client.request("POST", "/v1/chat/completions", content=body)

    assert response.status_code == 400
    assert field in response.text


BAD_COMPLETIONS: list[tuple[str, dict[str, Any]]] = [
    ("prompt", {}),
    ("prompt", {"prompt": ""}),
    ("prompt", {"prompt": []}),
    ("prompt", {"prompt": ["a", ""]}),
    ("prompt", {"prompt": [[1], []]}),
    ("prompt[1]", {"prompt": [1, 201_088]}),
    ("prompt[0]", {"prompt": [-1]}),
    ("prompt", {"prompt": ["a"] * 300}),
    ("prompt", {"prompt": ["a"] * 200, "n": 2}),
    ("suffix", {"prompt": "a", "suffix": "b"}),
    ("presence_penalty", {"prompt": "a", "echo": True, "logprobs": 1, "presence_penalty": 1}),
    ("min_tokens", {"prompt": "a", "echo": True, "logprobs": 1, "min_tokens": 1}),
    ("guided_grammar", {"prompt": "a", "echo": True, "logprobs": 1, "guided_choice": ["a"]}),
    ("prompt", {"prompt": [1, 200002, 3], "echo": True, "logprobs": 1}),
    ("max_tokens", {"prompt": "a", "max_tokens": 0, "echo": True}),
    ("max_tokens", {"prompt": "a", "max_tokens": 0}),
    ("best_of", {"prompt": "a", "best_of": 2}),
    ("stream_options", {"prompt": "a", "stream_options": {}}),
    ("stop_token_ids[0]", {"prompt": "a", "stop_token_ids": [-2]}),
]


@pytest.mark.parametrize(("param", "body"), BAD_COMPLETIONS, ids=lambda value: str(value)[:60])
def test_a_bad_completion_is_a_400_that_names_the_field(client: AsgiClient, param: str, body: dict[str, Any]) -> None:
    response = client.request("POST", "/v1/completions", json=body)

    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b'"x"', b"[" * 100_000, b'{"a":' * 100_000, b"\xff\xfe", b'{"messages": "\\ud800"}'],
    ids=["empty", "cut", "list", "null", "text", "deep list", "deep object", "no utf-8", "half a pair"],
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize"])
def test_a_body_that_is_no_json_object_is_a_400(client: AsgiClient, path: str, content: bytes) -> None:
    response = client.request("POST", path, content=content)

    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_a_billion_choices_cost_nothing(client: AsgiClient) -> None:
    client.chat()
    start_s = time.perf_counter()

    assert client.chat(n=10**9).status_code == 400

    assert time.perf_counter() - start_s < 0.5


def test_whitespace_that_no_tokenizer_can_split_is_a_400(client: AsgiClient) -> None:
    response = client.chat(messages=[{"role": "user", "content": " " * 1_100_000}])

    assert response.status_code == 400
    assert "whitespace" in response.json()["error"]["message"]


def test_a_prompt_beyond_the_context_is_told_so(client: AsgiClient) -> None:
    response = client.chat(messages=[{"role": "user", "content": "word " * 5000}])

    assert response.status_code == 400
    assert response.json()["error"]["code"] == "context_length_exceeded"
    assert "3072" in response.json()["error"]["message"]


def test_too_many_messages_or_tools_are_refused() -> None:
    client = AsgiClient(HandBackend(answer("A")), limits={"max_messages": 2, "max_tools": 1})

    assert client.chat(messages=HI * 3).json()["error"]["param"] == "messages"
    assert client.chat(tools=[FUNCTION, {"type": "python"}]).json()["error"]["param"] == "tools"


def test_an_unknown_model_is_a_404(client: AsgiClient) -> None:
    for path, body in (("/v1/chat/completions", {"messages": HI}), ("/v1/completions", {"prompt": "a"})):
        response = client.request("POST", path, json=body | {"model": "gpt-4"})

        assert response.status_code == 404
        assert response.json()["error"]["code"] == "model_not_found"
        assert "hand" in response.json()["error"]["message"]


def test_an_unknown_route_and_a_wrong_method_are_told_apart(client: AsgiClient) -> None:
    assert client.request("GET", "/v1/none").status_code == 404
    for method in ("GET", "PUT", "DELETE", "PATCH", "TRACE", "OPTIONS"):
        response = client.request(method, "/v1/chat/completions")

        assert response.status_code == 405
        assert response.headers["allow"] == "POST"
        assert response.json()["error"]["code"] == "method_not_allowed"
    stored = client.request("OPTIONS", "/v1/responses/resp_1")
    assert (stored.status_code, stored.headers["allow"]) == (405, "DELETE, GET")
