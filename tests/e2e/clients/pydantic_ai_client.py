"""Pydantic AI: an agent with a tool and one with a typed answer, over the Chat and the Responses API, and streamed."""

import asyncio
import logging
import sys
from typing import Any

_log = logging.getLogger(__name__)
SETTINGS: dict[str, Any] = {"temperature": 0.0, "max_tokens": 200}


async def run(base_url: str, model: str) -> None:
    """Run the same agents over both of the client's models."""
    from openai import AsyncOpenAI
    from pydantic_ai.models.openai import (  # pyright: ignore[reportMissingImports]
        OpenAIChatModel,
        OpenAIResponsesModel,
    )
    from pydantic_ai.providers.openai import OpenAIProvider  # pyright: ignore[reportMissingImports]

    provider: Any = OpenAIProvider(openai_client=AsyncOpenAI(base_url=base_url, api_key="none", max_retries=0))
    for api, kind in (("chat", OpenAIChatModel), ("responses", OpenAIResponsesModel)):
        over: Any = kind(model, provider=provider, settings=SETTINGS)
        await _answered(over, api)
        await _with_a_tool(over, api)
        await _typed(over, api)


async def _answered(over: Any, api: str) -> None:
    from pydantic_ai import Agent  # pyright: ignore[reportMissingImports]

    agent: Any = Agent(over)
    whole = await agent.run("What is 17 + 25?")
    assert "42" in whole.output, whole
    kinds = [part.part_kind for part in whole.all_messages()[-1].parts]
    assert kinds == ["thinking", "text"], kinds
    async with agent.run_stream("What is 17 + 25?") as streamed:
        pieces = [piece async for piece in streamed.stream_text(delta=True, debounce_by=None)]
    assert "".join(pieces) == whole.output, pieces
    assert len(pieces) > 3, pieces
    again = await agent.run("What is 20 + 20?", message_history=whole.all_messages())
    assert "40" in again.output, again
    _log.info("%s: %s In %d pieces.", api, whole.output, len(pieces))


async def _with_a_tool(over: Any, api: str) -> None:
    from pydantic_ai import Agent  # pyright: ignore[reportMissingImports]

    asked: list[str] = []
    agent: Any = Agent(over)

    def get_weather(city: str) -> dict[str, Any]:
        """Get the current weather in a city."""
        asked.append(city)
        return {"condition": "sunny", "temperature": 19}

    agent.tool_plain(get_weather)
    said = await agent.run("What is the weather in Lisbon?")
    assert asked == ["Lisbon"], asked
    assert "sunny" in said.output, said
    _log.info("%s tool: %s", api, said.output)


async def _typed(over: Any, api: str) -> None:
    from pydantic import create_model
    from pydantic_ai import Agent, NativeOutput, ToolOutput  # pyright: ignore[reportMissingImports]

    kind: Any = create_model("Sum", __doc__="A sum.", sum=(int, ...))
    for name, way in (("native", NativeOutput), ("tool", ToolOutput)):
        agent: Any = Agent(over, output_type=way(kind))
        said = await agent.run("What is 17 + 25?")
        assert isinstance(said.output, kind), said
        _log.info("%s %s output: %r", api, name, said.output)


if __name__ == "__main__":
    logging.basicConfig(format="ok %(message)s")
    _log.setLevel(logging.INFO)
    asyncio.run(run(sys.argv[1] + "/v1", sys.argv[2]))
