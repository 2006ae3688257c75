"""The official openai client's Responses API, unmodified, against the whole server on loopback."""

import base64
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI
from pydantic import BaseModel

from router.auth import KeyRing
from tests.router.fakes.hand_backend import HandBackend
from tests.router.fakes.hand_server import TOKENIZER, HandServer, running
from tests.router.fakes.scripts import answer, call, turn

TOOLS: Any = [
    {
        "type": "function",
        "name": "get_weather",
        "description": "Get the weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        "strict": None,
    }
]
KEYS = KeyRing(["key-one", "key-two"])


class City(BaseModel):
    """What an answer is parsed into."""

    name: str


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HandServer]:
    url = f"sqlite:///{tmp_path_factory.mktemp('store')}/responses.sqlite"
    with running(HandBackend(), KEYS, store={"url": url}) as one:
        yield one


@pytest.fixture
def client(server: HandServer) -> Iterator[OpenAI]:
    server.backend.__dict__.update(HandBackend().__dict__)
    with client_of(server) as one:
        yield one
    assert wait_until(lambda: server.backend.num_open == 0)
    assert wait_until(lambda: server.service._admission.num_running == 0)


def client_of(server: HandServer, key: str = "key-one") -> OpenAI:
    return OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0)


def say(server: HandServer, ids: list[int], **fields: Any) -> None:
    """Let the backend give `ids` to everybody."""
    server.backend.__dict__.update({"default": ids} | fields)


def prompt_of(server: HandServer) -> str:
    """Return the last prompt behind its system message."""
    return TOKENIZER.decode(server.backend.requests[-1].prompt_ids).partition("<|end|>")[2]


def wait_until(is_true: Callable[[], bool], timeout_s: float = 10.0) -> bool:
    deadline_s = time.monotonic() + timeout_s
    while not is_true() and time.monotonic() < deadline_s:
        time.sleep(0.02)
    return is_true()


def test_a_plain_answer(server: HandServer, client: OpenAI) -> None:
    say(server, answer("Hello!", reasoning="A greeting."))

    response = client.responses.create(model="hand", input="Hi", instructions="Be kind.", metadata={"a": "b"})

    assert response.output_text == "Hello!"
    reasoning: Any = response.output[0]
    assert (reasoning.type, reasoning.content[0].type) == ("reasoning", "reasoning_text")
    assert reasoning.content[0].text == "A greeting."
    assert response.status == "completed"
    assert response.metadata == {"a": "b"}
    assert prompt_of(server) == (
        "<|start|>developer<|message|># Instructions\n\nBe kind.<|end|>"
        "<|start|>user<|message|>Hi<|end|><|start|>assistant"
    )


def test_a_stream_is_folded_by_the_client(server: HandServer, client: OpenAI) -> None:
    say(server, call("get_weather", '{"city": "Oslo"}'))

    with client.responses.stream(model="hand", input="Weather in Oslo?", tools=TOOLS) as stream:
        kinds = [event.type for event in stream]
        final: Any = stream.get_final_response()

    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"
    assert final.output[-1].arguments == '{"city": "Oslo"}'
    assert final.output[-1].name == "get_weather"


def test_parse_gives_an_object(server: HandServer, client: OpenAI) -> None:
    say(server, answer('{"name": "Oslo"}'))

    response = client.responses.parse(model="hand", input="A city.", text_format=City)

    assert response.output_parsed == City(name="Oslo")
    assert '# Response Formats\n\n## City\n\n{"description":"What an answer is parsed into."' in prompt_of(server)
    with client.responses.stream(model="hand", input="A city.", text_format=City) as stream:
        assert stream.get_final_response().output_parsed == City(name="Oslo")


def test_a_tool_round_trip_without_the_store(server: HandServer, client: OpenAI) -> None:
    say(server, call("get_weather", '{"city":"Oslo"}', reasoning="I need the weather."))
    items: list[Any] = [{"role": "user", "content": "Weather?"}]
    first = client.responses.create(model="hand", input=items, tools=TOOLS, store=False)
    items += [item.model_dump(exclude_none=True) for item in first.output]
    called: Any = first.output[-1]
    items.append({"type": "function_call_output", "call_id": called.call_id, "output": "sunny"})

    say(server, answer("It is sunny."))
    second = client.responses.create(model="hand", input=items, tools=TOOLS, store=False)

    assert second.output_text == "It is sunny."
    assert prompt_of(server).endswith(AFTER_CALL)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.id)


AFTER_CALL = (
    "<|start|>user<|message|>Weather?<|end|>"
    "<|start|>assistant<|channel|>analysis<|message|>I need the weather.<|end|>"
    "<|start|>assistant to=functions.get_weather<|channel|>commentary <|constrain|>json<|message|>"
    '{"city":"Oslo"}<|call|><|start|>functions.get_weather to=assistant<|channel|>commentary<|message|>sunny<|end|>'
    "<|start|>assistant"
)


def test_a_tool_round_trip_by_previous_response_id(server: HandServer, client: OpenAI) -> None:
    say(server, call("get_weather", '{"city":"Oslo"}', reasoning="I need the weather."))
    first = client.responses.create(model="hand", input="Weather?", tools=TOOLS)
    called: Any = first.output[-1]
    output: Any = {"type": "function_call_output", "call_id": called.call_id, "output": "sunny"}

    say(server, answer("It is sunny.", reasoning="Sunny, then."))
    second = client.responses.create(model="hand", input=[output], previous_response_id=first.id, tools=TOOLS)
    assert prompt_of(server).endswith(AFTER_CALL)

    say(server, answer("Yes."))
    client.responses.create(model="hand", input="Sure?", previous_response_id=second.id, tools=TOOLS)
    assert prompt_of(server).endswith(
        "<|start|>user<|message|>Weather?<|end|>"
        "<|start|>assistant to=functions.get_weather<|channel|>commentary <|constrain|>json<|message|>"
        '{"city":"Oslo"}<|call|><|start|>functions.get_weather to=assistant<|channel|>commentary<|message|>sunny<|end|>'
        "<|start|>assistant<|channel|>final<|message|>It is sunny.<|end|>"
        "<|start|>user<|message|>Sure?<|end|><|start|>assistant"
    )


def test_a_preamble_stays_one_when_it_comes_back(server: HandServer, client: OpenAI) -> None:
    """Its reasoning before a call is kept, since a preamble is no final answer."""
    thought = turn("<|channel|>analysis<|message|>First.<|end|><|start|>assistant")
    opening = thought + turn("<|channel|>commentary<|message|>Let me see.<|end|><|start|>assistant")
    say(server, opening + call("get_weather", "{}", reasoning="Hm."))
    first = client.responses.create(model="hand", input="Weather?", tools=TOOLS)
    items: Any = [item.model_dump(exclude_none=True) for item in first.output]
    called: Any = first.output[-1]
    output: Any = {"type": "function_call_output", "call_id": called.call_id, "output": "sunny"}
    without_phase: Any = [{key: one for key, one in item.items() if key != "phase"} for item in items]
    for replayed in (items, without_phase):
        client.responses.create(model="hand", input=[*replayed, output], tools=TOOLS)
        assert (
            prompt_of(server)
            .partition("// namespace functions<|end|>")[2]
            .startswith(
                "<|start|>assistant<|channel|>analysis<|message|>First.<|end|>"
                "<|start|>assistant<|channel|>commentary<|message|>Let me see.<|end|>"
                "<|start|>assistant<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant to=functions.get_weather"
            )
        )


def test_sealed_reasoning_is_handed_back_without_its_text(server: HandServer, client: OpenAI) -> None:
    say(server, call("get_weather", "{}", reasoning="A thought."))
    request: Any = {"model": "hand", "tools": TOOLS, "store": False, "include": ["reasoning.encrypted_content"]}
    first = client.responses.create(input="Weather?", **request)
    reasoning: Any = first.output[0]
    called: Any = first.output[1]
    assert b"A thought" not in base64.urlsafe_b64decode(reasoning.encrypted_content)

    sealed: Any = {"type": "reasoning", "summary": [], "encrypted_content": reasoning.encrypted_content}
    items: Any = [
        sealed,
        called.model_dump(exclude_none=True),
        {"type": "function_call_output", "call_id": called.call_id, "output": "sunny"},
    ]
    client.responses.create(input=items, **request)
    assert "<|channel|>analysis<|message|>A thought.<|end|>" in prompt_of(server)

    forged: Any = sealed | {"encrypted_content": reasoning.encrypted_content[:-4] + "AAAA"}
    for key, one in (("key-one", forged), ("key-two", sealed)):
        with client_of(server, key) as other, pytest.raises(openai.BadRequestError) as caught:
            other.responses.create(input=[one, *items[1:]], **request)
        assert caught.value.code == "invalid_encrypted_content"


def test_an_item_may_be_named_instead_of_sent(server: HandServer, client: OpenAI) -> None:
    say(server, answer("Blue."))
    first = client.responses.create(model="hand", input="Which colour?")
    items: Any = [
        client.responses.input_items.list(first.id).data[0].to_dict() | {"type": "item_reference"},
        {"type": "item_reference", "id": first.output[-1].id},
        {"id": first.output[0].id},
        {"role": "user", "content": "Why?"},
    ]
    client.responses.create(model="hand", input=[{"id": items[0]["id"]}, *items[1:]])
    assert prompt_of(server) == (
        "<|start|>user<|message|>Which colour?<|end|><|start|>assistant<|channel|>final<|message|>Blue.<|end|>"
        "<|start|>assistant<|channel|>analysis<|message|>Hm.<|end|><|start|>user<|message|>Why?<|end|><|start|>assistant"
    )
    with client_of(server, "key-two") as other, pytest.raises(openai.BadRequestError) as caught:
        other.responses.create(model="hand", input=[items[1]])
    assert (caught.value.code, caught.value.param) == ("item_not_found", "input[0].id")


def test_stored_responses_are_the_keys_own(server: HandServer, client: OpenAI) -> None:
    say(server, answer("Mine."))
    made = client.responses.create(model="hand", input="Hi")
    assert client.responses.retrieve(made.id).output_text == "Mine."
    with client_of(server, "key-two") as other:
        for ask in (
            lambda: other.responses.retrieve(made.id),
            lambda: other.responses.delete(made.id),
            lambda: other.responses.cancel(made.id),
            lambda: other.responses.input_items.list(made.id),
            lambda: list(other.responses.retrieve(made.id, stream=True)),
        ):
            with pytest.raises(openai.NotFoundError):
                ask()
        with pytest.raises(openai.BadRequestError) as caught:
            other.responses.create(model="hand", input="Hi", previous_response_id=made.id)
        assert caught.value.code == "previous_response_not_found"
    client.responses.delete(made.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(made.id)
    with pytest.raises(openai.BadRequestError):
        client.responses.create(model="hand", input="Hi", previous_response_id=made.id)


def test_input_items_come_in_pages(server: HandServer, client: OpenAI) -> None:
    say(server, answer("A."))
    items: Any = [{"role": "user", "content": f"Message {number}"} for number in range(7)]
    made = client.responses.create(model="hand", input=items)

    texts = [item.content[0].text for item in client.responses.input_items.list(made.id, limit=2, order="asc")]  # type: ignore[union-attr]
    assert texts == [f"Message {number}" for number in range(7)]
    page = client.responses.input_items.list(made.id, limit=3)
    assert [item.content[0].text for item in page.data] == ["Message 6", "Message 5", "Message 4"]  # type: ignore[union-attr]
    assert page.has_more
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.input_items.list(made.id, after="nobody")
    assert caught.value.param == "after"


@pytest.mark.parametrize("is_streamed", [False, True])
def test_a_stored_response_is_told_again_as_events(server: HandServer, client: OpenAI, is_streamed: bool) -> None:
    say(server, answer("One two three."))
    if is_streamed:
        events = list(client.responses.create(model="hand", input="Hi", stream=True))
        made: Any = events[-1]
        again = list(client.responses.retrieve(made.response.id, stream=True))
        assert [event.to_dict() for event in again] == [event.to_dict() for event in events]
        response_id = made.response.id
    else:
        response_id = client.responses.create(model="hand", input="Hi").id
    stored = client.responses.retrieve(response_id)
    with client.responses.stream(response_id=response_id) as stream:
        assert stream.get_final_response().output_text == stored.output_text
    rest: Any = list(client.responses.retrieve(response_id, stream=True, starting_after=5))
    assert [event.sequence_number for event in rest] == list(range(6, 6 + len(rest)))
    assert rest[-1].type == "response.completed"


@pytest.mark.parametrize("is_stored", [False, True])
def test_a_client_that_leaves_a_stream_ends_it(server: HandServer, client: OpenAI, is_stored: bool) -> None:
    say(server, answer("word " * 200), delay_s=0.02)
    with client.responses.create(model="hand", input="Hi", stream=True, store=is_stored) as stream:
        first: Any = next(iter(stream))

    assert wait_until(lambda: len(server.backend.aborted) == 1)
    if not is_stored:
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(first.response.id)
        return

    def status() -> str | None:
        try:
            return client.responses.retrieve(first.response.id).status
        except openai.NotFoundError:
            return None

    assert wait_until(lambda: status() == "cancelled")


def test_many_at_once_are_kept_apart(server: HandServer, client: OpenAI) -> None:
    say(server, answer("One two."), delay_s=0.002)

    def converse(number: int) -> list[str]:
        first = client.responses.create(model="hand", input=f"Question {number}", background=number % 3 == 0)
        assert wait_until(lambda: client.responses.retrieve(first.id).status == "completed")
        again = client.responses.create(model="hand", input="More", previous_response_id=first.id, stream=True)
        last: Any = list(again)[-1]
        listed: Any = client.responses.input_items.list(last.response.id, order="asc").data
        return [item.content[0].text for item in listed]

    with ThreadPoolExecutor(12) as threads:
        found = list(threads.map(converse, range(36)))
    assert found == [[f"Question {number}", "Hm.", "One two.", "More"] for number in range(36)]


def test_a_restarted_server_knows_what_was_stored(tmp_path: Path) -> None:
    store = {"url": f"sqlite:///{tmp_path}/responses.sqlite"}
    with running(HandBackend(answer("Blue.")), store=store) as first, client_of(first) as client:
        made = client.responses.create(model="hand", input="Which colour?")
        first.backend.delay_s = 0.05
        running_one = client.responses.create(model="hand", input="Hi", background=True)
    backend = HandBackend(answer("Because."))
    with running(backend, store=store, conversation_date="2027-01-01") as second, client_of(second) as client:
        assert client.responses.retrieve(made.id).to_dict() == made.to_dict()
        client.responses.create(model="hand", input="Why?", previous_response_id=made.id)
        assert "Blue.<|end|><|start|>user<|message|>Why?" in prompt_of(second)
        system = TOKENIZER.decode(second.backend.requests[-1].prompt_ids).partition("<|end|>")[0]
        assert "Current date: 2026-11-22" in system, "a conversation keeps the date that it began on"
        stopped = client.responses.retrieve(running_one.id)
        assert stopped.status == "failed"
        assert stopped.error is not None
        assert "stopped" in stopped.error.message
