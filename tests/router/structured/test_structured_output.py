"""Structured output over HTTP, with the tiny model behind: answers that follow, 400s that name the field."""

import json
from collections.abc import Generator
from typing import Any

import jsonschema
import pytest

from cluster.config import AttentionSection, EngineSection, ModelSection, NumericsSection
from cluster.standalone import Standalone, StandaloneSections
from router.backend import Readiness, StandaloneBackend
from tests.router.fakes.asgi_client import HI, AsgiClient

READY = Readiness(is_ready=True, stage="ready", progress=1.0, fingerprint="tiny", max_context_tokens=2048)
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "likes": {"type": "array", "items": {"enum": ["tea", "maps"]}, "maxItems": 3},
    },
    "required": ["name", "age", "likes"],
    "additionalProperties": False,
}
HOT = {"temperature": 1.5, "max_tokens": 600}


def schema_format(schema: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}}


def function(name: str, **fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": PERSON, **fields}}


@pytest.fixture(scope="module")
def standalone() -> Generator[Standalone]:
    sections = StandaloneSections(
        ModelSection(max_context_tokens=2048),
        NumericsSection(),
        EngineSection(kv_cache_bytes=40_000_000),
        AttentionSection(),
    )
    running = Standalone.load(sections)
    yield running
    running.engine.check_integrity()
    running.stop()


@pytest.fixture(scope="module")
def client(standalone: Standalone) -> AsgiClient:
    backend = StandaloneBackend()
    standalone.start(backend.on_step)
    backend.attach(standalone.engine, READY)
    return AsgiClient(backend)  # pyright: ignore[reportArgumentType] - any backend will do


def contents(answer: Any) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [choice["message"]["content"] for choice in answer.json()["choices"]]


@pytest.mark.parametrize("seed", range(3))
def test_an_answer_is_what_the_schema_says(client: AsgiClient, seed: int) -> None:
    answer = client.chat(**schema_format(PERSON), n=3, seed=seed, **HOT)

    found = contents(answer)
    for content in found:
        jsonschema.validate(json.loads(content), PERSON)
    assert len(set(found)) > 1, "choices draw for themselves"
    assert {choice["finish_reason"] for choice in answer.json()["choices"]} == {"stop"}
    assert "x-expertmesh-notes" not in answer.headers


def test_reasoning_stays_free(client: AsgiClient) -> None:
    reply = client.chat(**schema_format(PERSON), seed=1, temperature=0.5, max_tokens=600).json()["choices"][0]

    assert "reasoning" in reply["message"]
    assert not reply["message"]["reasoning"].startswith("{")


def test_a_stream_says_the_same(client: AsgiClient) -> None:
    body = {**schema_format(PERSON), "seed": 4, **HOT, "logprobs": True}
    whole = client.chat(**body).json()["choices"][0]
    chunks = [
        json.loads(line.removeprefix("data: "))["choices"][0]
        for line in client.chat(**body, stream=True).text.splitlines()
        if line.startswith("data: {")
    ]

    assert "".join(chunk["delta"].get("content") or "" for chunk in chunks) == whole["message"]["content"]
    logprobs = [one for chunk in chunks for one in (chunk["logprobs"] or {"content": []})["content"]]
    assert logprobs == whole["logprobs"]["content"]


@pytest.mark.parametrize(
    ("fields", "is_right"),
    [
        ({"guided_choice": ["left", "right"], **HOT}, lambda text: text in {"left", "right"}),
        ({"guided_regex": "[ab]{4}", **HOT}, lambda text: len(text) == 4 and set(text) <= {"a", "b"}),
        ({"guided_json": {"type": "integer", "maximum": 9, "minimum": 0}, **HOT}, lambda text: text in "0123456789"),
        ({"guided_grammar": 'root ::= "x" [0-9]', **HOT}, lambda text: text[0] == "x" and text[1].isdigit()),
        ({"structured_outputs": {"choice": ["a b"]}, **HOT}, lambda text: text == "a b"),
        ({"structured_outputs": {"json": json.dumps({"const": 7})}, **HOT}, lambda text: text == "7"),
    ],
)  # fmt: skip
def test_every_form_holds_chats_and_texts(client: AsgiClient, fields: dict[str, Any], is_right: Any) -> None:
    chat = client.chat(**fields, seed=2).json()["choices"][0]
    text = client.request("POST", "/v1/completions", json={"prompt": "Say", "seed": 2, **fields}).json()["choices"][0]

    for finish, said in ((chat["finish_reason"], chat["message"]["content"]), (text["finish_reason"], text["text"])):
        assert finish == "stop", said
        assert is_right(said), said


def test_any_object_begins_as_one_and_has_no_end_of_its_own(client: AsgiClient) -> None:
    answer = client.chat(response_format={"type": "json_object"}, max_tokens=80, seed=1)

    (content,) = contents(answer)
    assert content.startswith("{")
    if answer.json()["choices"][0]["finish_reason"] == "stop":
        assert isinstance(json.loads(content), dict)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "g"}}])
@pytest.mark.parametrize("seed", range(2))
def test_a_required_call_is_made(client: AsgiClient, choice: Any, seed: int) -> None:
    answer = client.chat(tools=[function("f"), function("g", strict=True)], tool_choice=choice, seed=seed, **HOT)

    assert answer.status_code == 200, answer.text
    reply = answer.json()["choices"][0]
    assert reply["finish_reason"] == "tool_calls"
    (call,) = reply["message"]["tool_calls"]
    assert call["function"]["name"] in ({"f", "g"} if choice == "required" else {"g"})
    jsonschema.validate(json.loads(call["function"]["arguments"]), PERSON)


def test_a_model_that_would_rather_answer_makes_the_required_call_all_the_same(client: AsgiClient) -> None:
    """It ends its reasoning to answer; were reasoning allowed again, it would go on until its tokens are spent."""
    parameters = {"type": "object", "properties": {"sum": {"type": "integer"}}, "required": ["sum"]}
    tool = {"type": "function", "function": {"name": "final_result", "description": "A sum.", "parameters": parameters}}
    asked = {"messages": [{"role": "user", "content": "What is 17 + 25?"}], "temperature": 0.0, "max_tokens": 120}
    (choice,) = client.chat(**asked, tools=[tool], tool_choice="required").json()["choices"]
    assert choice["finish_reason"] == "tool_calls", choice
    assert isinstance(json.loads(choice["message"]["tool_calls"][0]["function"]["arguments"])["sum"], int)


def test_a_stop_string_cuts_the_answer_as_ever(client: AsgiClient) -> None:
    (content,) = contents(client.chat(**schema_format(PERSON), seed=4, stop=['"age"'], **HOT))

    assert '"name"' in content
    assert '"age"' not in content


STRANGE = {"format": "x", "type": "string"}
BAD: list[tuple[str, str, dict[str, Any]]] = [
    ("response_format.json_schema.schema.properties.a.not", "not supported",
     schema_format({"type": "object", "properties": {"a": {"not": {}}}})),
    ("response_format.json_schema.schema.items.pattern", "look-around",
     schema_format({"type": "array", "items": {"type": "string", "pattern": "(?!a)"}})),
    ("response_format.json_schema.schema.$ref", "does not exist", schema_format({"$ref": "#/$defs/none"})),
    ("response_format.json_schema.schema", "max_schema_depth",
     schema_format(json.loads('{"items":' * 70 + "{}" + "}" * 70))),
    ("response_format.json_schema.schema.type", "strin", schema_format({"type": "strin"})),
    ("guided_regex", "unclosed group", {"guided_regex": "(a"}),
    ("guided_regex", "max_grammar_chars", {"guided_regex": "a" * 20_000}),
    ("guided_grammar", "unknown name", {"guided_grammar": "start: foo"}),
    ("guided_json", "no JSON", {"guided_json": "{"}),
    ("guided_json.uniqueItems", "not supported", {"guided_json": {"type": "array", "uniqueItems": True}}),
    ("structured_outputs.grammar", "unknown special token", {"structured_outputs": {"grammar": "start: <|end|>"}}),
    ("tools[0].function.parameters.if", "not supported",
     {"tools": [function("f", strict=True, parameters={"if": {}})]}),
    ("tools[1].function.parameters.properties.b.format", "Unknown format",
     {"tools": [function("f"), function("g", strict=True, parameters={"properties": {"b": STRANGE}})],
      "tool_choice": "required"}),
]  # fmt: skip


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize(("param", "why", "fields"), BAD, ids=lambda value: str(value)[:50])
def test_what_cannot_be_enforced_is_a_400_that_names_it(
    client: AsgiClient, param: str, why: str, fields: dict[str, Any], is_stream: bool
) -> None:
    answer = client.chat(**fields, stream=is_stream)

    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, "invalid_grammar")
    assert why in error["message"]
    assert error["message"].startswith(f"{param}: ")


def test_a_tool_that_is_not_strict_is_never_refused_for_its_schema(client: AsgiClient) -> None:
    tools = [function("f", parameters={"type": "object", "properties": {"a": {"type": "integer", "not": {"const": 1}}},
                                       "required": ["a"]})]  # fmt: skip
    answer = client.chat(tools=tools, tool_choice="required", seed=1, **HOT)

    (call,) = answer.json()["choices"][0]["message"]["tool_calls"]
    assert isinstance(json.loads(call["function"]["arguments"])["a"], int)


def test_the_engine_serves_on(client: AsgiClient, standalone: Standalone) -> None:
    assert contents(client.chat(messages=HI, guided_choice=["yes"], max_tokens=300)) == ["yes"]
    assert standalone.engine.stopped_because is None
