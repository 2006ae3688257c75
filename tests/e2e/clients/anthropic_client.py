"""Anthropic's own Python SDK against a running server: whole, streamed, thinking, a format, a tool's round trip.

    expertmesh serve tiny-standalone
    python -m venv anthropic && anthropic/bin/pip install anthropic==2.12.0
    anthropic/bin/python tests/e2e/anthropic_client.py http://127.0.0.1:8000 tiny

Each check logs a line; the first that fails ends the program with an error.
"""

import json
import logging
import sys
from typing import Any

_log = logging.getLogger(__name__)
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"sum": {"type": "integer"}},
    "required": ["sum"],
    "additionalProperties": False,
}
WEATHER: dict[str, Any] = {
    "name": "get_weather",
    "description": "Get the current weather in a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
THINKING: dict[str, Any] = {"type": "enabled", "budget_tokens": 1024}


def run(url: str, model: str) -> None:
    """Ask everything that the client can ask."""
    from anthropic import Anthropic  # pyright: ignore[reportMissingImports]

    client: Any = Anthropic(base_url=url, api_key="none", max_retries=0)
    question = {"model": model, "max_tokens": 2000, "messages": [{"role": "user", "content": "What is 17 + 25?"}]}
    extra: dict[str, Any] = {"temperature": 0.0}
    whole = client.messages.create(**question, extra_body=extra)
    assert "42" in whole.content[0].text, whole
    assert (whole.stop_reason, whole.usage.output_tokens > 3) == ("end_turn", True), whole
    _log.info("whole: %s", whole.content[0].text)
    counted = client.messages.count_tokens(model=model, messages=question["messages"])
    assert counted.input_tokens == whole.usage.input_tokens + whole.usage.cache_read_input_tokens, counted

    thought = client.messages.create(**question, thinking=THINKING, extra_body=extra)
    assert [block.type for block in thought.content] == ["thinking", "text"], thought
    with client.messages.stream(**question, thinking=THINKING, extra_body=extra) as stream:
        kinds = [event.type for event in stream]
        streamed = stream.get_final_message()
    assert [_plain(block) for block in streamed.content] == [_plain(block) for block in thought.content]
    assert (streamed.stop_reason, streamed.usage.output_tokens) == (thought.stop_reason, thought.usage.output_tokens)
    assert kinds.count("content_block_delta") > 3, kinds
    _log.info("stream: %d events, %s", len(kinds), thought.content[0].thinking)

    form = {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}}
    formed = client.messages.create(**question, extra_body=extra | form)
    assert isinstance(json.loads(formed.content[0].text)["sum"], int), formed
    _log.info("format: %s", formed.content[0].text)
    _with_a_tool(client, model, extra)
    _log.info("error: %s", _refusal(client, question | {"model": "no-such-model"}))


def _plain(block: Any) -> dict[str, Any]:
    """Return a block without what the client adds to those of a stream."""
    return {key: value for key, value in block.to_dict().items() if key != "parsed_output"}


def _with_a_tool(client: Any, model: str, extra: dict[str, Any]) -> None:
    messages: list[Any] = [{"role": "user", "content": "What is the weather in Lisbon?"}]
    asked = {"model": model, "max_tokens": 500, "tools": [WEATHER], "thinking": THINKING, "extra_body": extra}
    choice = {"type": "tool", "name": "get_weather"}
    first = client.messages.create(**asked, messages=messages, tool_choice=choice)
    with client.messages.stream(**asked, messages=messages, tool_choice=choice) as stream:
        streamed = stream.get_final_message()
    used = next(block for block in first.content if block.type == "tool_use")
    again = next(block for block in streamed.content if block.type == "tool_use")
    assert (first.stop_reason, streamed.stop_reason) == ("tool_use", "tool_use")
    assert (used.name, used.input) == (again.name, again.input)
    result = {"type": "tool_result", "tool_use_id": used.id, "content": '{"condition": "sunny", "temperature": 19}'}
    messages += [{"role": "assistant", "content": first.content}, {"role": "user", "content": [result]}]
    answered = client.messages.create(**asked, messages=messages)
    assert answered.content, answered
    _log.info("tool: %s %s -> %s", used.name, used.input, answered.content[-1])


def _refusal(client: Any, question: dict[str, Any]) -> str:
    """Return what is said of a model that is not there."""
    from anthropic import NotFoundError  # pyright: ignore[reportMissingImports]

    try:
        client.messages.create(**question)
    except NotFoundError as error:
        return str(error)
    raise AssertionError(f"{question['model']} was served")


if __name__ == "__main__":
    logging.basicConfig(format="ok %(message)s")
    _log.setLevel(logging.INFO)
    for name in ("httpx", "httpx2"):
        logging.getLogger(name).setLevel(logging.WARNING)
    run(sys.argv[1], sys.argv[2])
