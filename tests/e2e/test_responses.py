"""The Responses API of a real standalone server with the tiny model, by the official openai client.

Of what the model says only what any weights must give is asserted: structure, one easy sum, that a stream and a whole
answer with the same seed are the same, and that all of it outlives the server.
"""

import json
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI
from sqlalchemy import create_engine, update

from router.store_tables import RESPONSES
from tests.e2e.served import Served, served

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

QUESTION = "What is 17 + 25?"
GREEDY: Any = {"model": "tiny", "temperature": 0.0, "max_output_tokens": 200, "extra_body": {"seed": 1}}
SAMPLED: Any = GREEDY | {"temperature": 2.0, "max_output_tokens": 60}
WEATHER: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "Get the current weather in a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    "strict": False,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def server(data: Path) -> Generator[Served]:
    with served("tiny-standalone", "--set", f"edge.store.url=sqlite:///{data}/responses.sqlite") as one:
        yield one


@pytest.fixture
def client(server: Served) -> Generator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=120) as one:
        yield one


def said(response: Any) -> list[Any]:
    """Return what the items of a response say, without their ids."""
    return [
        (item.type, item.arguments if item.type == "function_call" else item.content[0].text)
        for item in response.output
    ]


def test_a_question_is_answered_with_its_reasoning(client: OpenAI) -> None:
    response = client.responses.create(input=QUESTION, reasoning={"effort": "medium"}, **GREEDY)
    assert "42" in response.output_text
    assert [kind for kind, _ in said(response)] == ["reasoning", "message"]
    assert said(response)[0][1]
    assert response.status == "completed"
    assert response.usage is not None
    assert 0 < response.usage.output_tokens_details.reasoning_tokens < response.usage.output_tokens


@pytest.mark.parametrize("options", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_a_response_is_the_same_whole_streamed_and_in_the_background(client: OpenAI, options: Any) -> None:
    whole = client.responses.create(input=QUESTION, **options)
    with client.responses.stream(input=QUESTION, **options) as stream:
        kinds = [event.type for event in stream if event.type != "response.incomplete"]
    streamed: Any = list(client.responses.create(input=QUESTION, stream=True, **options))[-1]
    made = client.responses.create(input=QUESTION, background=True, **options)
    while (later := client.responses.retrieve(made.id)).status in {"queued", "in_progress"}:
        time.sleep(0.1)

    assert said(streamed.response) == said(whole) == said(later)
    assert streamed.response.status == whole.status == later.status
    assert kinds[:2] == ["response.created", "response.in_progress"]


def test_a_tool_is_called_and_the_conversation_goes_on(client: OpenAI) -> None:
    choice: Any = {"type": "function", "name": "get_weather"}
    request: Any = GREEDY | {"tools": [WEATHER]}
    asked = client.responses.create(input="What is the weather in Lisbon?", tool_choice=choice, **request)
    called: Any = asked.output[-1]
    assert (called.type, called.name) == ("function_call", "get_weather")
    assert isinstance(json.loads(called.arguments)["city"], str)

    result: Any = {"type": "function_call_output", "call_id": called.call_id, "output": '{"condition": "sunny"}'}
    by_id = client.responses.create(input=[result], previous_response_id=asked.id, **request)
    items: Any = [{"role": "user", "content": "What is the weather in Lisbon?"}]
    items += [item.model_dump(exclude_none=True) for item in asked.output]
    by_items = client.responses.create(input=[*items, result], store=False, **request)
    assert by_id.output_text
    assert said(by_id) == said(by_items)
    assert by_id.usage is not None
    assert by_items.usage is not None
    assert by_id.usage.input_tokens == by_items.usage.input_tokens
    listed = [item.type for item in client.responses.input_items.list(by_id.id, order="asc")]
    assert listed == ["message", *(item.type for item in asked.output), "function_call_output"]


def test_stored_responses_outlive_the_server(server: Served, client: OpenAI, data: Path) -> None:
    made = client.responses.create(input=QUESTION, **GREEDY)
    with (
        served("tiny-standalone", "--set", f"edge.store.url=sqlite:///{data}/responses.sqlite") as second,
        OpenAI(base_url=f"{second.url}/v1", api_key="none", max_retries=0, timeout=120) as other,
    ):
        assert other.responses.retrieve(made.id).to_dict() == made.to_dict()
        again = other.responses.create(input="And 20 + 20?", previous_response_id=made.id, **GREEDY)
        assert again.status == "completed"
        assert again.output_text


def test_a_killed_servers_background_response_goes_on_at_another(server: Served, client: OpenAI, data: Path) -> None:
    """Its lease is ended by hand, which would end by itself in a quarter of a minute."""
    file = f"sqlite:///{data}/responses.sqlite"
    longer: Any = SAMPLED | {"max_output_tokens": 250, "extra_body": {"seed": 1, "ignore_eos": True}}
    seen: list[Any] = []
    with (  # noqa: PT012 - it is the server's end that is not as it should be
        pytest.raises(AssertionError, match="ended with -9"),
        served("tiny-standalone", "--set", f"edge.store.url={file}") as doomed,
        OpenAI(base_url=f"{doomed.url}/v1", api_key="none", max_retries=0, timeout=120) as other,
    ):
        for event in other.responses.create(input=QUESTION, background=True, stream=True, **longer):
            seen.append(event)
            if event.sequence_number == 30:
                break
        doomed.process.kill()
        doomed.process.wait()
    database = create_engine(file)
    with database.begin() as connection:
        ended = update(RESPONSES).where(RESPONSES.c.lease_s.is_not(None)).values(lease_s=time.time())
        assert connection.execute(ended).rowcount == 1
    database.dispose()
    response_id = seen[0].response.id
    rest: Any = list(client.responses.retrieve(response_id, stream=True, starting_after=30))
    assert [event.sequence_number for event in rest] == list(range(31, 31 + len(rest)))
    assert said(rest[-1].response) == said(client.responses.create(input=QUESTION, **longer))
    again: Any = list(client.responses.retrieve(response_id, stream=True))
    assert [event.to_dict() for event in again[31:]] == [event.to_dict() for event in rest]
    told = [event.to_dict() for event in again[:31] if "response" not in event.to_dict()]
    assert told == [event.to_dict() for event in seen if "response" not in event.to_dict()]
