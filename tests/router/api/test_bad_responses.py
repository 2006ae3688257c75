"""What `/v1/responses` refuses, and how; what it passes over and names; and that no body and no query makes a 5xx."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from tests.router.fakes.asgi_client import AsgiClient
from tests.router.fakes.hand_backend import HandBackend
from tests.router.fakes.scripts import answer

FUNCTION: dict[str, Any] = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}}
CALL: dict[str, Any] = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
USER: dict[str, Any] = {"role": "user", "content": "Hi"}
SCHEMA: dict[str, Any] = {"type": "json_schema", "name": "s", "schema": {"type": "object", "properties": {}}}
NUM_FUZZED = 600


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> AsgiClient:
    url = f"sqlite:///{tmp_path_factory.mktemp('store')}/responses.sqlite"
    return AsgiClient(HandBackend(answer("A")), store={"url": url})


BAD: list[tuple[str, dict[str, Any]]] = [
    ("input", {"input": None}),
    ("input", {"input": []}),
    ("input", {"input": 5}),
    ("input[0].role", {"input": [{"role": "king", "content": "Hi"}]}),
    ("input[0].role", {"input": [{"content": "Hi"}]}),
    ("input[0].content", {"input": [{"role": "user"}]}),
    ("input[0].content[0].type", {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}),
    ("input[0].content[0].type", {"input": [{"role": "user", "content": [{"type": "output_text", "text": "x"}]}]}),
    ("input[0].content[0].text", {"input": [{"role": "user", "content": [{"type": "input_text"}]}]}),
    ("input[0].type", {"input": [{"type": "computer_call_output", "call_id": "x"}]}),
    ("input[1].name", {"input": [USER, CALL | {"name": "a b"}]}),
    ("input[1].call_id", {"input": [USER, CALL | {"call_id": None}]}),
    ("input[1].arguments", {"input": [USER, CALL | {"arguments": None}]}),
    ("input", {"input": [USER, {"type": "function_call_output", "call_id": "nobody", "output": "x"}]}),
    ("input[0].output", {"input": [{"type": "function_call_output", "call_id": "nobody"}]}),
    ("input[0].id", {"input": [{"type": "item_reference", "id": "msg_" + "0" * 32 + "o1"}]}),
    ("input[0].id", {"input": [{"id": "elsewhere"}]}),
    ("input[0].summary[0].type", {"input": [{"type": "reasoning", "summary": [{"type": "text", "text": "x"}]}]}),
    ("input", {"input": [{"type": "reasoning", "id": "rs_1", "encrypted_content": "gAAAA"}]}),
    ("previous_response_id", {"previous_response_id": "resp_nobody"}),
    ("previous_response_id", {"previous_response_id": "resp_" + "0" * 32}),
    ("n", {"n": 2}),
    ("temperature", {"temperature": 3}),
    ("top_p", {"top_p": -1}),
    ("max_output_tokens", {"max_output_tokens": 0}),
    ("max_tool_calls", {"max_tool_calls": 0}),
    ("top_logprobs", {"top_logprobs": 2}),
    ("top_logprobs", {"top_logprobs": 21, "include": ["message.output_text.logprobs"]}),
    ("include[0]", {"include": ["everything"]}),
    ("reasoning.effort", {"reasoning": {"effort": "extreme"}}),
    ("reasoning.summary", {"reasoning": {"summary": "rhymed"}}),
    ("tools[0].type", {"tools": [{"type": "custom", "name": "f"}]}),
    ("tools[1].name", {"tools": [FUNCTION, {"type": "function"}]}),
    ("tools[1].name", {"tools": [FUNCTION, FUNCTION]}),
    ("tools[1].name", {"tools": [{"type": "web_search"}, FUNCTION | {"name": "a b"}]}),
    ("tool_choice", {"tool_choice": "required"}),
    ("tool_choice", {"tool_choice": {"type": "function", "name": "g"}, "tools": [FUNCTION]}),
    ("tool_choice.type", {"tool_choice": {"type": "web_search"}, "tools": [FUNCTION]}),
    ("tool_choice.tools[0]", {"tools": [FUNCTION], "tool_choice": {"type": "allowed_tools", "tools": [
        {"type": "function", "name": "g"}]}}),
    ("text.format.name", {"text": {"format": SCHEMA | {"name": None}}}),
    ("text.format.name", {"text": {"format": SCHEMA | {"name": "a b"}}}),
    ("text.format.schema", {"text": {"format": SCHEMA | {"schema": None}}}),
    ("text.format.type", {"text": {"format": {"type": "xml"}}}),
    ("text.verbosity", {"text": {"verbosity": "low"}}),
    ("truncation", {"truncation": "middle"}),
    ("service_tier", {"service_tier": "flex"}),
    ("background", {"background": True, "store": False}),
    ("stream_options.include_obfuscation", {"stream_options": {"include_obfuscation": 5}}),
    ("metadata", {"metadata": {str(number): "x" for number in range(17)}}),
    ("metadata.a", {"metadata": {"a": "x" * 513}}),
    ("metadata.a", {"metadata": {"a": 5}}),
    ("conversation", {"conversation": "conv_1"}),
    ("prompt", {"prompt": {"id": "p"}}),
    ("messages", {"messages": [USER]}),
    ("max_tokens", {"max_tokens": 5}),
    ("response_format", {"response_format": {"type": "text"}}),
    ("context_management", {"context_management": [{"type": "compaction"}]}),
]  # fmt: skip


@pytest.mark.parametrize(("param", "body"), BAD)
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_served_is_named(client: AsgiClient, param: str, body: dict[str, Any], stream: bool) -> None:
    response = client.request("POST", "/v1/responses", json={"input": "Hi", "stream": stream} | body)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"
    assert param.partition("[")[0].split(".")[0] in error["message"]


@pytest.mark.parametrize(
    ("engine_says", "param"),
    [
        ("response_format.json_schema.schema.properties.a: no regex", "text.format.schema.properties.a"),
        ("tools[1].function.parameters.properties.b: no schema", "tools[1].parameters.properties.b"),
    ],
)
@pytest.mark.parametrize("mode", ["whole", "stream"])
def test_what_the_engine_refuses_is_named_in_the_words_of_responses(
    tmp_path: Path, engine_says: str, param: str, mode: str
) -> None:
    """A grammar is compiled when the engine takes the request, and refused then."""
    store = {"url": f"sqlite:///{tmp_path}/responses.sqlite"}
    client = AsgiClient(HandBackend(refusal=engine_says), store=store)
    body: dict[str, Any] = {"input": "Hi", "text": {"format": SCHEMA}} | {mode: True}
    response = client.request("POST", "/v1/responses", json={key: body[key] for key in body if key != "whole"})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
    assert response.json()["error"]["message"].startswith(f"{param}: ")
    assert response.json()["error"]["code"] == "invalid_grammar"


def test_an_unknown_model_is_404(client: AsgiClient) -> None:
    response = client.request("POST", "/v1/responses", json={"input": "Hi", "model": "gpt-6"})
    assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")


def test_an_input_that_is_too_long_is_said_or_shortened(client: AsgiClient) -> None:
    """4096 tokens are the limit here; twenty turns of 1000 tokens do not fit, the last few do."""
    turns = [
        {"role": role, "content": f"{number} " + "word " * 500}
        for number in range(20)
        for role in ("user", "assistant")
    ]
    items = [*turns, {"role": "user", "content": "The last."}]
    response = client.request("POST", "/v1/responses", json={"input": items, "instructions": "Be brief."})
    assert (response.status_code, response.json()["error"]["code"]) == (400, "context_length_exceeded")

    cut = client.request(
        "POST", "/v1/responses", json={"input": items, "instructions": "Be brief.", "truncation": "auto"}
    )
    assert cut.status_code == 200
    assert cut.json()["usage"]["input_tokens"] > 2000
    backend: Any = client.service._backend
    prompt = client.service.tokenizer.decode(backend.requests[-1].prompt_ids)
    assert "Be brief." in prompt
    assert "The last." in prompt
    assert "<|start|>user<|message|>19 word" in prompt
    assert "<|start|>user<|message|>0 word" not in prompt


def test_what_is_passed_over_is_named(client: AsgiClient) -> None:
    body = {
        "input": [USER | {"colour": "blue"}],
        "client_metadata": {"a": 1},
        "include": ["reasoning.encrypted_content", "web_search_call.action.sources"],
        "tools": [
            FUNCTION,
            {"type": "namespace", "name": "n", "tools": [FUNCTION]},
            {"type": "web_search", "depth": 1},
        ],
        "tool_choice": "auto",
        "prompt_cache_key": "k",
        "parallel_tool_calls": True,
        "reasoning": {"effort": "minimal", "summary": "auto"},
    }
    response = client.request("POST", "/v1/responses", json=body)
    assert response.status_code == 200
    named = response.headers["x-expertmesh-ignored-fields"].split(", ")
    assert named == ["client_metadata", "input[0].colour", "tools[1]", "tools[2]", "include[1]"]
    notes = response.headers["x-expertmesh-notes"]
    assert "reasoning.effort: minimal is served as low" in notes
    assert "reasoning.summary" in notes
    assert [tool["name"] for tool in response.json()["tools"]] == ["f"]
    assert response.json()["reasoning"] == {"effort": "low", "summary": None}


def test_only_allowed_tools_are_offered(client: AsgiClient) -> None:
    choice = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "g"}]}
    body = {"input": "Hi", "tools": [FUNCTION, FUNCTION | {"name": "g"}], "tool_choice": choice}
    response = client.request("POST", "/v1/responses", json=body)
    assert [tool["name"] for tool in response.json()["tools"]] == ["g"]
    backend: Any = client.service._backend
    prompt = client.service.tokenizer.decode(backend.requests[-1].prompt_ids)
    assert "type g = " in prompt
    assert "type f = " not in prompt


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("stream=true&starting_after=x", "starting_after"),
        ("starting_after=3", "starting_after"),
        ("stream=maybe", "stream"),
    ],
)
def test_a_bad_query_is_named(client: AsgiClient, query: str, param: str) -> None:
    made = client.request("POST", "/v1/responses", json={"input": "Hi"}).json()
    response = client.request("GET", f"/v1/responses/{made['id']}?{query}")
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=x", "order=up"])
def test_a_bad_page_is_named(client: AsgiClient, query: str) -> None:
    made = client.request("POST", "/v1/responses", json={"input": "Hi"}).json()
    response = client.request("GET", f"/v1/responses/{made['id']}/input_items?{query}")
    assert (response.status_code, response.json()["error"]["param"]) == (400, query.partition("=")[0])


@pytest.mark.parametrize("response_id", ["x", "resp_%00", "..%2f", "%F0%9F%98%80", "resp_" + "0" * 32, "a" * 5000])
def test_an_id_of_nothing_is_404(client: AsgiClient, response_id: str) -> None:
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/input_items")):
        response = client.request(method, f"/v1/responses/{response_id}{path}")
        assert response.status_code == 404
        assert response.json()["error"]["type"] == "invalid_request_error"


GOOD: dict[str, Any] = {
    "model": "hand",
    "input": [USER, CALL, {"type": "function_call_output", "call_id": "c", "output": [
                  {"type": "input_text", "text": "x"}]},
              {"type": "reasoning", "id": "rs_1", "summary": [], "content": [
                  {"type": "reasoning_text", "text": "Hm."}]},
              {"role": "assistant", "content": [{"type": "output_text", "text": "A", "annotations": []}]}, USER],
    "instructions": "Be kind.", "max_output_tokens": 50, "metadata": {"a": "b"}, "store": True, "stream": False,
    "parallel_tool_calls": True, "reasoning": {"effort": "low", "summary": "auto"}, "tools": [FUNCTION],
    "text": {"format": SCHEMA}, "truncation": "auto", "include": ["reasoning.encrypted_content"], "temperature": 0.5,
    "top_p": 0.9, "user": "u", "tool_choice": "auto", "background": False, "previous_response_id": None, "seed": 1,
}  # fmt: skip
WILD: list[Any] = [None, True, False, 0, -1, 10**30, 1.5, "", "x", "\u0000", "😀" * 50, [], {}, [[]], [None], [{}],
                   {"type": "function"}, {"type": 5}, [{"type": "message"}], "resp_" + "0" * 32,
                   {"a": {"b": {"c": []}}}]  # fmt: skip


def mutated(value: Any, draw: random.Random) -> Any:
    """Return a copy of a body with one place changed, dropped or added."""
    if isinstance(value, dict) and value and draw.random() < 0.85:
        name = draw.choice(list(value))
        choice = draw.random()
        if choice < 0.1:
            return {key: one for key, one in value.items() if key != name}
        if choice < 0.2:
            return value | {draw.choice(["extra", "type", "id", "content", "name"]): draw.choice(WILD)}
        return value | {name: mutated(value[name], draw)}
    if isinstance(value, list) and value and draw.random() < 0.85:
        place = draw.randrange(len(value))
        return [*value[:place], mutated(value[place], draw), *value[place + 1 :]]
    return draw.choice(WILD)


def test_no_body_makes_a_failure_of_ours(client: AsgiClient) -> None:
    draw = random.Random(5)
    statuses: set[int] = set()
    for number in range(NUM_FUZZED):
        body: Any = GOOD
        for _ in range(draw.randint(1, 3)):
            body = mutated(body, draw)
        response = client.request("POST", "/v1/responses", content=json.dumps(body).encode())
        statuses.add(response.status_code)
        assert response.status_code in (200, 400), (number, body, response.text)
        if response.status_code != 200:
            assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    assert statuses == {200, 400}


def test_the_document_describes_every_route(client: AsgiClient) -> None:
    document = client.request("GET", "/openapi.json").json()
    paths = {path: set(methods) for path, methods in document["paths"].items() if "responses" in path}
    assert paths == {
        "/v1/responses": {"post"},
        "/v1/responses/{response_id}": {"get", "delete"},
        "/v1/responses/{response_id}/cancel": {"post"},
        "/v1/responses/{response_id}/input_items": {"get"},
    }
    assert "ResponseBody" in document["components"]["schemas"]
    names = {one["name"] for one in document["paths"]["/v1/responses/{response_id}"]["get"]["parameters"]}
    assert names == {"response_id", "stream", "starting_after"}
    for path, methods in paths.items():
        for method in methods:
            assert "422" not in document["paths"][path][method]["responses"]
