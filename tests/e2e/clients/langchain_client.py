"""LangChain's ChatOpenAI over both APIs: invoke, stream, tools and their results, structured output of each method."""

import logging
import sys
from typing import Any

_log = logging.getLogger(__name__)


def run(base_url: str, model: str) -> None:
    """Ask the same over the Chat and over the Responses API."""
    from langchain_openai import ChatOpenAI  # pyright: ignore[reportMissingImports]

    for api, over_responses in (("chat", False), ("responses", True)):
        chat: Any = ChatOpenAI(
            model=model,
            base_url=base_url,
            api_key="none",
            temperature=0.0,
            max_tokens=200,
            max_retries=0,
            use_responses_api=over_responses,
            stream_usage=True,
        )
        _said(chat, api)
        _with_a_tool(chat, api)
        _typed(chat, api)


def _said(chat: Any, api: str) -> None:
    whole = chat.invoke("What is 17 + 25?")
    assert "42" in whole.text, whole
    assert whole.usage_metadata["output_tokens"] > 3, whole
    added: Any = None
    num_chunks = 0
    for chunk in chat.stream("What is 17 + 25?"):
        added = chunk if added is None else added + chunk
        num_chunks += 1
    assert added.text == whole.text, added
    assert num_chunks > 3, added
    assert added.usage_metadata["output_tokens"] == whole.usage_metadata["output_tokens"], added.usage_metadata
    _log.info("%s: %s in %d chunks", api, whole.text, num_chunks)


def _with_a_tool(chat: Any, api: str) -> None:
    from langchain_core.messages import HumanMessage, ToolMessage  # pyright: ignore[reportMissingImports]
    from langchain_core.tools import tool  # pyright: ignore[reportMissingImports]

    def get_weather(city: str) -> str:
        """Get the current weather in a city."""
        return f'{{"condition": "sunny", "temperature": 19, "city": "{city}"}}'

    weather: Any = tool(get_weather)
    bound = chat.bind_tools([weather])
    messages: list[Any] = [HumanMessage("What is the weather in Lisbon?")]
    asked = bound.invoke(messages)
    (call,) = asked.tool_calls
    assert (call["name"], call["args"]) == ("get_weather", {"city": "Lisbon"}), asked
    messages += [asked, ToolMessage(weather.invoke(call["args"]), tool_call_id=call["id"])]
    answered = bound.invoke(messages)
    assert "sunny" in answered.text, answered
    required = chat.bind_tools([weather], tool_choice="required", strict=True).invoke("What is the weather in Lisbon?")
    assert required.tool_calls[0]["args"] == {"city": "Lisbon"}, required
    _log.info("%s tool: %s", api, answered.text)


def _typed(chat: Any, api: str) -> None:
    from pydantic import create_model

    kind: Any = create_model("Sum", __doc__="A sum.", sum=(int, ...))
    for method in ("json_schema", "function_calling"):
        said = chat.with_structured_output(kind, method=method, strict=True).invoke("What is 17 + 25?")
        assert isinstance(said, kind), (method, said)
        _log.info("%s %s: %r", api, method, said)


if __name__ == "__main__":
    logging.basicConfig(format="ok %(message)s")
    _log.setLevel(logging.INFO)
    run(sys.argv[1] + "/v1", sys.argv[2])
