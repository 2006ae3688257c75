"""LiteLLM: chat whole and streamed, a tool's round trip, a schema, the Responses API, errors."""

import json
import logging
import os
import sys
from typing import Any

_log = logging.getLogger(__name__)
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"sum": {"type": "integer"}},
    "required": ["sum"],
    "additionalProperties": False,
}
PARAMETERS: dict[str, Any] = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FUNCTION: dict[str, Any] = {
    "name": "get_weather",
    "description": "Get the current weather in a city.",
    "parameters": PARAMETERS,
}


def run(base_url: str, model: str) -> None:
    """Ask everything that the client can ask."""
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    import litellm  # pyright: ignore[reportMissingImports]

    litellm_any: Any = litellm
    question = [{"role": "user", "content": "What is 17 + 25?"}]
    where: dict[str, Any] = {"model": f"openai/{model}", "api_base": base_url, "api_key": "none", "num_retries": 0}
    how: dict[str, Any] = where | {"temperature": 0.0, "seed": 1, "max_tokens": 200}
    whole = litellm_any.completion(messages=question, **how)
    said = whole.choices[0].message
    assert "42" in said.content, whole
    assert said.reasoning_content, whole
    _log.info("chat: %s", said.content)

    chunks = list(litellm_any.completion(messages=question, stream=True, stream_options={"include_usage": True}, **how))
    rebuilt = litellm_any.stream_chunk_builder(chunks, messages=question)
    again = rebuilt.choices[0].message
    assert (again.content, again.reasoning_content) == (said.content, said.reasoning_content), rebuilt
    assert rebuilt.usage.completion_tokens == whole.usage.completion_tokens, (rebuilt.usage, whole.usage)
    _log.info("stream: %d chunks, rebuilt alike", len(chunks))

    form = {"type": "json_schema", "json_schema": {"name": "sum", "schema": SCHEMA, "strict": True}}
    formed = litellm_any.completion(messages=question, response_format=form, **how).choices[0].message.content
    assert isinstance(json.loads(formed)["sum"], int), formed
    _log.info("schema: %s", formed)
    _with_a_tool(litellm_any, how)
    _over_responses(litellm_any, where)
    _refusals(litellm_any, how, question)


def _with_a_tool(litellm: Any, how: dict[str, Any]) -> None:
    messages: list[Any] = [{"role": "user", "content": "What is the weather in Lisbon?"}]
    tools = [{"type": "function", "function": FUNCTION}]
    asked = litellm.completion(messages=messages, tools=tools, **how).choices[0]
    (call,) = asked.message.tool_calls
    assert asked.finish_reason == "tool_calls", asked
    assert json.loads(call.function.arguments) == {"city": "Lisbon"}, call
    result = {"role": "tool", "tool_call_id": call.id, "content": '{"condition": "sunny", "temperature": 19}'}
    messages += [asked.message, result]
    answered = litellm.completion(messages=messages, tools=tools, **how).choices[0].message
    assert "sunny" in answered.content, answered
    _log.info("tool: %s", answered.content)


def _over_responses(litellm: Any, where: dict[str, Any]) -> None:
    how = where | {"temperature": 0.0, "max_output_tokens": 200}
    whole = litellm.responses(input="What is 17 + 25?", **how)
    kinds = [item.type for item in whole.output]
    assert kinds == ["reasoning", "message"], whole
    assert "42" in whole.output[1].content[0].text, whole
    *_, last = litellm.responses(input="What is 17 + 25?", stream=True, **how)
    assert last.type == "response.completed", last
    assert last.response.output[1].content[0].text == whole.output[1].content[0].text
    tool = {"type": "function", "strict": False} | FUNCTION
    called = litellm.responses(input="What is the weather in Lisbon?", tools=[tool], **how).output[-1]
    assert (called.type, json.loads(called.arguments)) == ("function_call", {"city": "Lisbon"}), called
    _log.info("responses: %s", whole.output[1].content[0].text)


def _refusals(litellm: Any, how: dict[str, Any], question: list[Any]) -> None:
    """Errors arrive as the client's own kinds."""
    cases: tuple[tuple[Any, dict[str, Any]], ...] = (
        (litellm.NotFoundError, {"model": "openai/no-such-model"}),
        (litellm.ContextWindowExceededError, {"messages": [{"role": "user", "content": "word " * 200_000}]}),
        (litellm.BadRequestError, {"temperature": 9.0}),
    )
    for kind, changed in cases:
        try:
            litellm.completion(**({"messages": question} | how | changed))
        except kind:
            continue
        raise AssertionError(f"{list(changed)} was served")
    _log.info("errors: three kinds")


if __name__ == "__main__":
    logging.basicConfig(format="ok %(message)s")
    _log.setLevel(logging.INFO)
    run(sys.argv[1] + "/v1", sys.argv[2])
