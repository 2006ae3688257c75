"""Ollama's API: its shapes, its words in refusals, and that it asks and answers what chat does."""

import json
from functools import cache
from typing import Any

import pytest

from router.auth import KeyRing
from router.errors import Unavailable
from tests.router.api.test_openai_client import TOOLS, TURNS
from tests.router.fakes.asgi_client import HI, AsgiClient
from tests.router.fakes.hand_backend import HandBackend
from tests.router.fakes.hand_server import TOKENIZER
from tests.router.fakes.scripts import answer, call

NAMED = "x-expertmesh-ignored-fields"
NOTES = "x-expertmesh-notes"
PASSING = {"created_at", "total_duration", "prompt_eval_duration", "eval_duration"}


@cache
def shared() -> tuple[AsgiClient, HandBackend]:
    backend = HandBackend()
    return AsgiClient(backend), backend


def client_of(ids: list[int], **fields: Any) -> tuple[AsgiClient, HandBackend]:
    """Return the module's client, whose backend now gives `ids` and has been asked nothing."""
    client, backend = shared()
    backend.__dict__.update(HandBackend(ids, **fields).__dict__)
    return client, backend


def chat(client: AsgiClient, **body: Any) -> Any:
    return client.request("POST", "/api/chat", json={"model": "hand", "messages": HI, "stream": False} | body)


def generate(client: AsgiClient, **body: Any) -> Any:
    return client.request("POST", "/api/generate", json={"model": "hand", "prompt": "Hi", "stream": False} | body)


def folded(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the lines of a stream as the object that they make; all but the last say that they are not the last."""
    assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]
    whole = lines[-1]
    for line in lines[-2::-1]:
        told, more = (whole, line) if "response" in whole else (whole["message"], line["message"])
        for name in ("content", "response", "thinking", "tool_calls"):
            if name in more:
                told[name] = more[name] + told[name] if name in told else more[name]
        if "logprobs" in line:
            whole["logprobs"] = line["logprobs"] + whole.get("logprobs", [])
    return {key: value for key, value in whole.items() if key not in PASSING}


def lines_of(response: Any) -> list[dict[str, Any]]:
    assert response.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in response.text.splitlines()]


def without_ids(told: dict[str, Any]) -> dict[str, Any]:
    for one in told.get("message", {}).get("tool_calls", []):
        assert one.pop("id").startswith("call_")
    return {key: value for key, value in told.items() if key not in PASSING}


@pytest.mark.parametrize("name", TURNS)
@pytest.mark.parametrize("stop", [None, ["nev", "t me"]])
@pytest.mark.parametrize("think", [None, False])
def test_a_stream_says_what_a_whole_answer_says(name: str, stop: list[str] | None, think: bool | None) -> None:
    client, _ = client_of(TURNS[name])
    fields = {"tools": [*TOOLS, {"type": "python"}], "options": {"stop": stop}, "think": think, "logprobs": True}

    streamed = without_ids(folded(lines_of(chat(client, **fields, stream=True))))
    assert streamed == without_ids(chat(client, **fields).json())
    fields.pop("tools")
    assert folded(lines_of(generate(client, **fields, stream=None))) == without_ids(generate(client, **fields).json())


def test_a_whole_answer_has_its_counts_and_durations() -> None:
    client, _ = client_of(answer("Hello!", reasoning="A greeting."))
    told = chat(client).json()

    assert told["message"] == {"role": "assistant", "content": "Hello!", "thinking": "A greeting."}
    assert (told["model"], told["done"], told["done_reason"], told["load_duration"]) == ("hand", True, "stop", 0)
    assert told["eval_count"] == len(answer("Hello!", reasoning="A greeting."))
    assert told["total_duration"] >= told["prompt_eval_duration"] + told["eval_duration"] > 0
    assert chat(client, options={"num_predict": 3}).json()["done_reason"] == "length"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ('{"city":"Oslo"}', {"city": "Oslo"}),
        ("", {}),
        ("{'city': Oslo]]", {"INVALID_JSON": "{'city': Oslo]]"}),
        ("[1]", {"INVALID_JSON": "[1]"}),
        ('{"a": 1e999}', {"INVALID_JSON": '{"a": 1e999}'}),
        ('{"a": NaN}', {"INVALID_JSON": '{"a": NaN}'}),
        ('{"a": "\\ud800"}', {"INVALID_JSON": '{"a": "\\ud800"}'}),
    ],
)
def test_a_tool_round_trip(arguments: str, told: dict[str, Any]) -> None:
    """Whatever the model wrote comes back to it as it wrote it; the prompt is the one that chat makes."""
    client, backend = client_of(call("get_weather", arguments, reasoning="I need the weather."))
    message = chat(client, tools=TOOLS).json()["message"]
    assert message["tool_calls"][0]["function"] == {"index": 0, "name": "get_weather", "arguments": told}
    for result in ({"tool_name": "get_weather"}, {}, {"tool_call_id": message["tool_calls"][0]["id"]}):
        chat(client, tools=TOOLS, messages=[*HI, message, {"role": "tool", "content": "sunny", **result}])

    made = {"id": "1", "function": {"name": "get_weather", "arguments": arguments or "{}"}}
    said = {"role": "assistant", "reasoning": "I need the weather.", "tool_calls": [made]}
    client.chat(tools=TOOLS, messages=[*HI, said, {"role": "tool", "tool_call_id": "1", "content": "sunny"}])
    assert len({request.prompt_ids for request in backend.requests[1:]}) == 1
    assert len(backend.requests) == 5


def test_options_reach_the_engine() -> None:
    client, backend = client_of(answer("A"))
    options = {"temperature": 0.5, "top_p": 0.9, "top_k": 7, "min_p": 0.01, "seed": 11, "num_predict": 77}
    penalties = {"presence_penalty": 0.1, "frequency_penalty": -0.2, "repeat_penalty": 1.1, "repeat_last_n": -1}

    response = chat(client, options={**options, **penalties, "stop": "x", "num_ctx": 2048, "num_gpu": 1, "mystery": 2})

    params = backend.requests[-1].params
    assert (params.temperature, params.top_p, params.top_k, params.min_p) == (0.5, 0.9, 7, 0.01)
    assert (params.seed, params.max_tokens) == (11, 77)
    given = (params.presence_penalty, params.frequency_penalty, params.repetition_penalty)
    assert given == (0.1, -0.2, 1.1)
    assert set(response.headers[NAMED].split(", ")) == {"options.num_gpu", "options.mystery"}
    chat(client, options={"seed": -1, "num_predict": -1, "repeat_last_n": 64, "mirostat": 0, "typical_p": 1.0})
    assert backend.requests[-1].params.seed != -1
    assert backend.requests[-1].params.max_tokens > 2000


BAD: list[tuple[str, dict[str, Any]]] = [
    ("model", {"model": None}),
    ("messages[0].role", {"messages": [{"role": "developer", "content": "x"}]}),
    ("messages[0].images", {"messages": [{"role": "user", "content": "x", "images": ["aGk="]}]}),
    ("messages[0].tool_name", {"messages": [{"role": "tool", "content": "x"}]}),
    ("messages[0].tool_calls[0].function.name", {"messages": [{"role": "assistant", "tool_calls": [
        {"function": {"name": "a<|end|>b", "arguments": {}}}]}]}),
    ("messages[0].tool_calls[0].function.arguments", {"messages": [{"role": "assistant", "tool_calls": [
        {"function": {"name": "a", "arguments": "{}"}}]}]}),
    ("options.temperature", {"options": {"temperature": 3}}),
    ("options.top_p", {"options": {"top_p": 2}}),
    ("options.top_k", {"options": {"top_k": -2}}),
    ("options.stop", {"options": {"stop": [""]}}),
    ("options.seed", {"options": {"seed": 2**64}}),
    ("options.num_predict", {"options": {"num_predict": -3}}),
    ("options.num_ctx", {"options": {"num_ctx": 1_000_000}}),
    ("options.repeat_penalty", {"options": {"repeat_penalty": 0}}),
    ("options.repeat_last_n", {"options": {"repeat_penalty": 1.1, "repeat_last_n": 64}}),
    ("options.penalize_newline", {"options": {"repeat_penalty": 1.1, "penalize_newline": False}}),
    ("options.mirostat", {"options": {"mirostat": 1}}),
    ("options.typical_p", {"options": {"typical_p": 0.5}}),
    ("options.tfs_z", {"options": {"tfs_z": 0.5}}),
    ("format", {"format": "xml"}),
    ("think", {"think": "extreme"}),
    ("top_logprobs", {"top_logprobs": 3}),
    ("tools[1].function.name", {"tools": [*TOOLS, *TOOLS]}),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body"), BAD, ids=lambda value: str(value)[:60])
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_served_is_a_400_that_names_the_field(path: str, body: dict[str, Any], stream: bool) -> None:
    client, backend = client_of(answer("A"))
    response = chat(client, stream=stream, **body)

    assert response.status_code == 400, response.text
    assert set(response.json()) == {"error"}
    assert path in response.json()["error"]
    assert backend.requests == []


@pytest.mark.parametrize("name", ["suffix", "template", "context", "images"])
def test_what_a_prompt_cannot_have_is_named(name: str) -> None:
    client, _ = client_of(answer("A"))
    response = generate(client, **{name: "x" if name in ("suffix", "template") else [1]})

    assert response.status_code == 400
    assert response.json()["error"].startswith(f"{name} is not supported")


def test_a_format_is_enforced_and_what_the_engine_refuses_of_it_is_named() -> None:
    client, backend = client_of(answer("{}"))
    for wanted in ("json", {"type": "object", "properties": {}}):
        chat(client, format=wanted)
        assert backend.requests[-1].constraint is not None
        generate(client, format=wanted, raw=True)
        assert backend.requests[-1].constraint is not None
    chat(client, format="")
    assert backend.requests[-1].constraint is None

    backend.refusal = "response_format.json_schema.schema.properties.a.pattern: no regex"
    for stream in (False, True):
        response = chat(client, format={"type": "object"}, stream=stream)
        assert response.status_code == 400
        assert response.json() == {"error": "format.properties.a.pattern: no regex."}


@pytest.mark.parametrize(
    ("think", "effort", "has_thinking"),
    [(None, "medium", True), (True, "medium", True), (False, "low", False), ("high", "high", True)],
)
def test_thinking_is_effort(think: Any, effort: str, has_thinking: bool) -> None:
    client, backend = client_of(answer("A"))
    response = chat(client, think=think)

    assert f"Reasoning: {effort}" in TOKENIZER.decode(backend.requests[-1].prompt_ids)
    assert ("thinking" in response.json()["message"]) == has_thinking
    assert ("think" in response.headers.get(NOTES, "")) == (think is False)


def test_a_raw_prompt_is_continued_as_text() -> None:
    client, backend = client_of(answer("A"))
    generate(client, prompt="<|start|>system", raw=True)

    assert backend.requests[-1].prompt_ids == tuple(TOKENIZER.encode("<|start|>system"))
    assert generate(client, raw=True, system="x").status_code == 400
    generate(client, prompt="Hi", system="Be brief.")
    assert "Be brief." in TOKENIZER.decode(backend.requests[-1].prompt_ids)


def test_nothing_to_answer_only_loads_the_model() -> None:
    client, backend = client_of(answer("A"))
    for told in (chat(client, messages=[]).json(), generate(client, prompt="", keep_alive="5m").json()):
        assert (told["done"], told["done_reason"]) == (True, "load")
    assert chat(client, model="gpt-5", messages=[]).status_code == 404
    assert backend.requests == []


def test_the_served_model_is_told_of() -> None:
    client, _ = client_of(answer("A"))
    (model,) = client.request("GET", "/api/tags").json()["models"]
    assert (model["name"], model["details"]["family"]) == ("hand", "gptoss")
    (loaded,) = client.request("GET", "/api/ps").json()["models"]
    assert (loaded["digest"], loaded["context_length"]) == (model["digest"], 3072)
    shown = client.request("POST", "/api/show", json={"model": "hand:latest"}).json()
    assert shown["model_info"][f"{shown['model_info']['general.architecture']}.context_length"] == 3072
    assert shown["capabilities"] == ["completion", "tools", "thinking"]
    assert client.request("POST", "/api/show", json={"model": "gpt-5"}).status_code == 404
    assert client.request("POST", "/api/show", json={}).status_code == 400
    assert client.request("GET", "/api/version").json()["version"].count(".") == 2
    assert client.request("HEAD", "/").status_code == 200


def test_errors_have_ollamas_shape_wherever_they_come_from() -> None:
    client = AsgiClient(HandBackend(answer("One two"), error=Unavailable("Gone."), fails_after=12), KeyRing(["k"]))
    key = {"authorization": "Bearer k"}
    body = {"model": "hand", "messages": HI}
    assert client.request("POST", "/api/chat", json=body).json().keys() == {"error"}
    for method, path, status in (("GET", "/api/chat", 405), ("GET", "/api/nowhere", 404), ("POST", "/api/embed", 404)):
        response = client.request(method, path, headers=key)
        assert (response.status_code, response.json().keys()) == (status, {"error"})
    lines = lines_of(client.request("POST", "/api/chat", json=body, headers=key))
    assert lines[-1] == {"error": "Gone."}
    assert lines[-2]["message"]["content"] == "One"


def test_requests_are_counted() -> None:
    client = AsgiClient(HandBackend(answer("A")))
    chat(client)
    chat(client, format="xml")
    metrics = set(client.request("GET", "/metrics").text.splitlines())
    assert 'expertmesh_requests_total{endpoint="ollama",outcome="ok",status="200"} 1.0' in metrics
    assert any(line.startswith('expertmesh_requests_total{endpoint="ollama"') and "400" in line for line in metrics)
