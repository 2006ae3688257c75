"""OpenAI's Agents SDK against a running server: its tool loop over the Responses API, whole and streamed.

    expertmesh serve tiny-standalone
    python -m venv agents && agents/bin/pip install openai-agents==0.24.0
    agents/bin/python tests/e2e/agents_client.py http://127.0.0.1:8000/v1 tiny

Each check logs a line; the first that fails ends the program with an error.
"""

import asyncio
import logging
import sys
from typing import Any

_log = logging.getLogger(__name__)


async def run(base_url: str, model: str) -> None:
    """Run an agent with one tool; the tool is forced once, so that the loop does not hang on the model's mood."""
    from agents import (  # pyright: ignore[reportMissingImports]
        Agent,
        ModelSettings,
        OpenAIResponsesModel,
        Runner,
        function_tool,
        set_tracing_disabled,
    )
    from openai import AsyncOpenAI

    set_tracing_disabled(True)
    asked: list[str] = []

    def get_weather(city: str) -> str:
        """Get the current weather in a city."""
        asked.append(city)
        return '{"condition": "sunny", "temperature": 19}'

    settings: Any = ModelSettings(temperature=0.0, max_tokens=200, tool_choice="get_weather")
    client = AsyncOpenAI(base_url=base_url, api_key="none", max_retries=0)
    agent: Any = Agent(
        name="Weather",
        model=OpenAIResponsesModel(model=model, openai_client=client),
        model_settings=settings,
        tools=[function_tool(get_weather, strict_mode=False)],
    )
    whole = await Runner.run(agent, "What is the weather in Lisbon?", max_turns=3)
    assert len(asked) == 1, asked
    _log.info("whole: %s -> %s", asked, whole.final_output)
    streamed = Runner.run_streamed(agent, "What is the weather in Lisbon?", max_turns=3)
    kinds = {event.type async for event in streamed.stream_events()}
    assert "raw_response_event" in kinds, kinds
    assert len(asked) == 2, asked
    assert streamed.final_output == whole.final_output
    _log.info("streamed: %s", streamed.final_output)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    asyncio.run(run(sys.argv[1], sys.argv[2]))
