"""Ollama's own Python client against a running server: models, thinking, streams, a format, a tool's round trip.

    expertmesh serve tiny-standalone
    python -m venv ollama && ollama/bin/pip install ollama==0.6.3
    ollama/bin/python tests/e2e/ollama_client.py http://127.0.0.1:8000 tiny

Each check logs a line; the first that fails ends the program with an error.
"""

import json
import logging
import sys
from typing import Any

_log = logging.getLogger(__name__)
GREEDY: dict[str, Any] = {"temperature": 0, "seed": 1, "num_predict": 200}
SCHEMA: dict[str, Any] = {"type": "object", "properties": {"sum": {"type": "integer"}}, "required": ["sum"]}


def get_weather(city: str) -> str:
    """Get the current weather in a city.

    Args:
        city: The city's name
    """
    return json.dumps({"condition": "sunny", "temperature": 19, "city": city})


def run(url: str, model: str) -> None:
    """Ask everything that the client can ask."""
    from ollama import Client  # pyright: ignore[reportMissingImports]

    client: Any = Client(host=url)
    _about_models(client, model)
    question = {"model": model, "messages": [{"role": "user", "content": "What is 17 + 25?"}], "options": GREEDY}
    whole = client.chat(**question, think="low")
    assert "42" in whole.message.content, whole
    assert whole.message.thinking, whole
    assert whole.done_reason == "stop", whole
    assert whole.total_duration >= whole.eval_duration > 0, whole
    pieces = list(client.chat(**question, think="low", stream=True))
    assert "".join(piece.message.content for piece in pieces) == whole.message.content
    assert "".join(piece.message.thinking or "" for piece in pieces) == whole.message.thinking
    assert pieces[-1].eval_count == whole.eval_count
    _log.info("chat: whole and in %d pieces, %s", len(pieces), whole.message.content)

    told = client.chat(**question, format=SCHEMA)
    assert isinstance(json.loads(told.message.content)["sum"], int), told
    _log.info("format: %s", told.message.content)
    generated = client.generate(model=model, prompt="What is 17 + 25?", options=GREEDY, think="low")
    assert generated.response == whole.message.content, generated
    lines = client.generate(model=model, prompt="Once", raw=True, stream=True, options=GREEDY)
    raw = "".join(line.response for line in lines)
    _log.info("raw: %.60s", raw)
    _with_a_tool(client, model)
    _log.info("error: %s", _refusal(client, "no-such-model"))


def _refusal(client: Any, model: str) -> str:
    """Return what is said of a model that is not there."""
    from ollama import ResponseError  # pyright: ignore[reportMissingImports]

    try:
        client.chat(model=model, messages=[{"role": "user", "content": "Hi"}])
    except ResponseError as error:
        if error.status_code == 404:
            return error.error
        raise
    raise AssertionError(f"{model} was served")


def _about_models(client: Any, model: str) -> None:
    assert [one.model for one in client.list().models] == [model]
    shown = client.show(model)
    assert {"completion", "tools", "thinking"} <= set(shown.capabilities), shown
    assert client.ps().models[0].model == model
    _log.info("models: %s, %s", model, shown.modelinfo)


def _with_a_tool(client: Any, model: str) -> None:
    messages: list[Any] = [{"role": "user", "content": "What is the weather in Lisbon?"}]
    asked = client.chat(model=model, messages=messages, tools=[get_weather], options=GREEDY)
    streamed = list(client.chat(model=model, messages=messages, tools=[get_weather], options=GREEDY, stream=True))
    calls = [call for piece in streamed for call in piece.message.tool_calls or []]
    assert [call.function for call in calls] == [call.function for call in asked.message.tool_calls or []]
    if not calls:
        _log.info("tool: the model answers without it: %s", asked.message.content)
        return
    messages.append(asked.message)
    for call in calls:
        result = get_weather(**call.function.arguments)
        messages.append({"role": "tool", "tool_name": call.function.name, "content": result})
    answered = client.chat(model=model, messages=messages, tools=[get_weather], options=GREEDY)
    assert answered.message.content or answered.message.tool_calls, answered
    _log.info("tool: %s -> %s", calls[0].function, answered.message.content)


if __name__ == "__main__":
    logging.basicConfig(format="ok %(message)s")
    _log.setLevel(logging.INFO)
    run(sys.argv[1], sys.argv[2])
