"""OpenAI's Agents SDK: its tool loop and a typed answer, over the Responses and the Chat API, whole and streamed."""

import asyncio
import logging
import sys
from typing import Any

_log = logging.getLogger(__name__)
QUESTION = "What is the weather in Lisbon?"


async def run(base_url: str, model: str) -> None:
    """Run the same agents over both of the SDK's models."""
    from agents import (  # pyright: ignore[reportMissingImports]
        OpenAIChatCompletionsModel,
        OpenAIResponsesModel,
        set_tracing_disabled,
    )
    from openai import AsyncOpenAI

    set_tracing_disabled(True)
    client = AsyncOpenAI(base_url=base_url, api_key="none", max_retries=0)
    for api, kind in (("Responses", OpenAIResponsesModel), ("Chat", OpenAIChatCompletionsModel)):
        over: Any = kind(model=model, openai_client=client)
        _log.info("tool over %s: %s", api, await _tool_loop(over))
        _log.info("typed answer over %s: %s", api, await _typed_answer(over))


async def _tool_loop(over: Any) -> str:
    """Return what the agent says of a result, after it asked for it by itself; streamed it says the same."""
    from agents import Agent, ModelSettings, Runner, function_tool  # pyright: ignore[reportMissingImports]

    asked: list[str] = []

    def get_weather(city: str) -> str:
        """Get the current weather in a city."""
        asked.append(city)
        return '{"condition": "sunny", "temperature": 19}'

    settings: Any = ModelSettings(temperature=0.0, max_tokens=200, include_usage=True)
    agent: Any = Agent(name="Weather", model=over, model_settings=settings, tools=[function_tool(get_weather)])
    whole = await Runner.run(agent, QUESTION, max_turns=3)
    assert asked == ["Lisbon"], asked
    assert "sunny" in whole.final_output, whole
    streamed = Runner.run_streamed(agent, QUESTION, max_turns=3)
    names = [event.name async for event in streamed.stream_events() if event.type == "run_item_stream_event"]
    assert asked == ["Lisbon"] * 2, asked
    assert {"tool_called", "tool_output", "message_output_created", "reasoning_item_created"} <= set(names), names
    assert streamed.final_output == whole.final_output, streamed
    assert streamed.context_wrapper.usage.output_tokens == whole.context_wrapper.usage.output_tokens
    return whole.final_output


async def _typed_answer(over: Any) -> str:
    """Return the text of an answer that had to be of a type."""
    from agents import Agent, ModelSettings, Runner  # pyright: ignore[reportMissingImports]
    from pydantic import create_model

    kind = create_model("Sum", sum=(int, ...))
    settings: Any = ModelSettings(temperature=0.0, max_tokens=200)
    agent: Any = Agent(name="Adder", model=over, model_settings=settings, output_type=kind)
    said = await Runner.run(agent, "What is 17 + 25?")
    assert isinstance(said.final_output, kind), said
    return said.final_output.model_dump_json()


if __name__ == "__main__":
    logging.basicConfig(format="ok %(message)s")
    _log.setLevel(logging.INFO)
    asyncio.run(run(sys.argv[1] + "/v1", sys.argv[2]))
