"""Every parameter that the openai SDK can send is honoured, said to have no effect, or refused by name.

The SDK's own types are the list: a parameter that a newer SDK adds fails here until it is decided on, instead of being
taken for an unknown field. What is honoured must show, in what the engine is asked or in what the client is told beside
the parameter itself; what is kept for the client is told to it again; what is accepted without effect must be called so
in the OpenAPI document.
"""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from openai.types import completion_create_params as completion_params
from openai.types.chat import completion_create_params as chat_params
from openai.types.responses import response_create_params as response_params

from tests.router.api.test_openai_client import TURNS
from tests.router.fakes.asgi_client import HI, AsgiClient
from tests.router.fakes.hand_backend import HandBackend
from tests.router.fakes.scripts import answer

IGNORED = "x-expertmesh-ignored-fields"
HONOURED, ECHOED, ACCEPTED, REFUSED = "honoured", "echoed", "accepted", "refused"
FUNCTION: dict[str, Any] = {"name": "get_weather", "parameters": {"type": "object", "properties": {}}}
TOOL: dict[str, Any] = {"type": "function", "function": FUNCTION}
OBJECT: dict[str, Any] = {"type": "object", "properties": {}}
Row = tuple[str, Any, Mapping[str, Any]]
"""What becomes of a parameter, a value of it, and what has to be there besides."""

SAMPLING: dict[str, Row] = {
    "frequency_penalty": (HONOURED, 0.5, {}),
    "logit_bias": (HONOURED, {"5": -100}, {}),
    "model": (HONOURED, "hand-alias", {}),
    "n": (HONOURED, 2, {}),
    "presence_penalty": (HONOURED, 0.5, {}),
    "seed": (HONOURED, 7, {}),
    "stop": (HONOURED, ["two"], {}),
    "stream": (HONOURED, True, {}),
    "stream_options": (HONOURED, {"include_usage": True}, {"stream": True}),
    "temperature": (HONOURED, 0.5, {}),
    "top_p": (HONOURED, 0.5, {}),
    "user": (ACCEPTED, "me", {}),
}
HINTS: dict[str, Row] = {
    "metadata": (ACCEPTED, {"a": "b"}, {}),
    "prompt_cache_key": (ACCEPTED, "k", {}),
    "prompt_cache_options": (REFUSED, {"mode": "explicit"}, {}),
    "prompt_cache_retention": (ACCEPTED, "in_memory", {}),
    "safety_identifier": (ACCEPTED, "me", {}),
    "service_tier": (ACCEPTED, "default", {}),
}
CHAT: dict[str, Row] = SAMPLING | HINTS | {
    "audio": (REFUSED, {"voice": "x", "format": "wav"}, {}),
    "function_call": (REFUSED, "auto", {}),
    "functions": (REFUSED, [FUNCTION], {}),
    "logprobs": (HONOURED, True, {}),
    "max_completion_tokens": (HONOURED, 3, {}),
    "max_tokens": (HONOURED, 3, {}),
    "messages": (HONOURED, [{"role": "user", "content": "Ho"}], {}),
    "modalities": (ACCEPTED, ["text"], {}),
    "moderation": (REFUSED, {"model": "omni-moderation-latest"}, {}),
    "parallel_tool_calls": (HONOURED, False, {"tools": [TOOL]}),
    "prediction": (REFUSED, {"type": "content", "content": "x"}, {}),
    "reasoning_effort": (HONOURED, "high", {}),
    "response_format": (HONOURED, {"type": "json_object"}, {}),
    "store": (HONOURED, True, {}),
    "tool_choice": (HONOURED, "required", {"tools": [TOOL]}),
    "tools": (HONOURED, [TOOL], {}),
    "top_logprobs": (HONOURED, 2, {"logprobs": True}),
    "verbosity": (ACCEPTED, "medium", {}),
    "web_search_options": (REFUSED, {}, {}),
}  # fmt: skip
COMPLETIONS: dict[str, Row] = SAMPLING | {
    "best_of": (REFUSED, 2, {}),
    "echo": (HONOURED, True, {}),
    "logprobs": (HONOURED, 2, {}),
    "max_tokens": (HONOURED, 3, {}),
    "prompt": (HONOURED, "Ho", {}),
    "suffix": (REFUSED, "x", {}),
}
SHARED: dict[str, Row] = {name: SAMPLING[name] for name in ("model", "stream", "temperature", "top_p")} | HINTS
RESPONSES: dict[str, Row] = SHARED | {
    "access_programs": (REFUSED, ["x"], {}),
    "background": (HONOURED, True, {}),
    "background_options": (REFUSED, {"x": 1}, {}),
    "context_management": (REFUSED, [{"type": "compaction"}], {}),
    "conversation": (REFUSED, "conv_1", {}),
    "image": (REFUSED, {"x": 1}, {}),
    "include": (HONOURED, ["message.output_text.logprobs"], {}),
    "input": (HONOURED, "Ho", {}),
    "instructions": (HONOURED, "Be brief.", {}),
    "max_output_tokens": (HONOURED, 3, {}),
    "max_tool_calls": (ECHOED, 3, {}),
    "metadata": (ECHOED, {"a": "b"}, {}),
    "moderation": (REFUSED, {"model": "omni-moderation-latest"}, {}),
    "parallel_tool_calls": (HONOURED, False, {"tools": [{"type": "function", **FUNCTION}]}),
    "previous_response_id": (REFUSED, "resp_nobody", {}),
    "prompt": (REFUSED, {"id": "p"}, {}),
    "prompt_cache_key": (ECHOED, "k", {}),
    "reasoning": (HONOURED, {"effort": "high"}, {}),
    "safety_identifier": (ECHOED, "me", {}),
    "service_tier": (ACCEPTED, "default", {}),
    "store": (ECHOED, False, {}),
    "stream_options": (ACCEPTED, {"include_obfuscation": False}, {"stream": True}),
    "text": (HONOURED, {"format": {"type": "json_object"}}, {}),
    "tool_choice": (HONOURED, "required", {"tools": [{"type": "function", **FUNCTION}]}),
    "tools": (HONOURED, [{"type": "function", **FUNCTION}], {}),
    "top_logprobs": (HONOURED, 2, {"include": ["message.output_text.logprobs"]}),
    "truncation": (ECHOED, "auto", {}),
    "user": (ECHOED, "me", {}),
}  # fmt: skip
FAMILIES: dict[str, tuple[dict[str, Row], Any, dict[str, Any]]] = {
    "/v1/chat/completions": (CHAT, chat_params, {"messages": HI}),
    "/v1/completions": (COMPLETIONS, completion_params, {"prompt": "Hi"}),
    "/v1/responses": (RESPONSES, response_params, {"input": "Hi"}),
}
CASES = [(path, name) for path, (table, _, _) in FAMILIES.items() for name in table]
PASSING = {"id", "item_id", "call_id", "created", "created_at", "completed_at", "seed"}
SAYS = {"parallel_tool_calls": TURNS["two calls"]}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> AsgiClient:
    url = f"sqlite:///{tmp_path_factory.mktemp('store')}/responses.sqlite"
    return AsgiClient(HandBackend(answer("One two three.")), store={"url": url})


def sdk_parameters(module: Any) -> set[str]:
    """Return the names in the SDK's own types, of a stream and without one."""
    kinds = [kind for name, kind in vars(module).items() if "CreateParams" in name and isinstance(kind, type)]
    return {name for kind in kinds for name in kind.__annotations__}


def outcome(client: AsgiClient, path: str, body: dict[str, Any]) -> tuple[int, str, Any]:
    """Return status, header of ignored fields, and all that a parameter may show in: the engine's work, the answer."""
    backend: Any = client.service._backend
    backend.requests.clear()
    response = client.request("POST", path, json=body)
    asked = [(one.prompt_ids, one.params, one.constraint) for one in backend.requests]
    seedless = [] if "seed" in body else [(ids, _without_seed(params), held) for ids, params, held in asked]
    lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: {")]
    told = _lasting([json.loads(line) for line in lines] if lines else response.json())
    notes = response.headers.get("x-expertmesh-notes", "")
    return response.status_code, response.headers.get(IGNORED, ""), (seedless or asked, told, notes)


@pytest.mark.parametrize("path", FAMILIES)
def test_every_parameter_of_the_sdk_is_decided_on(path: str) -> None:
    table, module, _ = FAMILIES[path]

    assert sdk_parameters(module) == set(table)


@pytest.mark.parametrize(("path", "name"), CASES)
def test_a_parameter_is_honoured_or_said_to_be_without_effect_or_refused(
    client: AsgiClient, path: str, name: str
) -> None:
    table, _, least = FAMILIES[path]
    fate, value, besides = table[name]
    backend: Any = client.service._backend
    backend.default = SAYS.get(name, answer("One two three."))
    status, ignored, shown = outcome(client, path, {**least, **besides, name: value})
    assert ignored == "", "a parameter that the SDK knows is no unknown field"
    if fate is REFUSED:
        assert status == 400
        assert shown[1]["error"]["param"] == name
        assert name in shown[1]["error"]["message"]
        return
    assert status == 200, shown
    if name == "model":
        return
    if fate is HONOURED:
        assert _without(shown, name) != _without(outcome(client, path, {**least, **besides})[2], name)
    elif fate is ECHOED:
        assert shown[1][name] == value
    else:
        schema = client.app.openapi()["components"]["schemas"]
        body = schema[_body_name(client, path)]["properties"][name]
        assert "Accepted" in body.get("description", ""), body


def _body_name(client: AsgiClient, path: str) -> str:
    body = client.app.openapi()["paths"][path]["post"]["requestBody"]["content"]["application/json"]
    return body["schema"]["$ref"].rpartition("/")[2]


def _lasting(told: Any) -> Any:
    """Return an answer without what differs from request to request."""
    if isinstance(told, dict):
        return {key: _lasting(value) for key, value in told.items() if key not in PASSING}
    return [_lasting(one) for one in told] if isinstance(told, list) else told


def _without(shown: Any, name: str) -> Any:
    asked, told, notes = shown
    return asked, {key: told[key] for key in told if key != name} if isinstance(told, dict) else told, notes


def _without_seed(params: Any) -> Any:
    return {key: getattr(params, key) for key in params.__dataclass_fields__ if key != "seed"}
