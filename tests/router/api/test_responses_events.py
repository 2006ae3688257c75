"""The events of a response, in OpenAI's order, whatever the model writes; a stream says what a whole answer says."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cluster.errors import EngineStopped
from tests.router.fakes.asgi_client import AsgiClient
from tests.router.fakes.hand_backend import HandBackend
from tests.router.fakes.scripts import answer, call, turn

TOOLS = [{"type": "function", "name": "get_weather", "parameters": {"type": "object", "properties": {}}}]
Say = Callable[..., AsgiClient]
PREAMBLE = turn("<|channel|>commentary<|message|>Let me see.<|end|><|start|>assistant")


def text_item(index: int, kind: str, num_deltas: int) -> list[str]:
    """Return the events of an item that is text, without numbers: `kind` is reasoning_text or output_text."""
    return [
        f"output_item.added [{index}]",
        f"content_part.added [{index}]",
        *[f"{kind}.delta [{index}]"] * num_deltas,
        f"{kind}.done [{index}]",
        f"content_part.done [{index}]",
        f"output_item.done [{index}]",
    ]


def call_item(index: int, num_deltas: int) -> list[str]:
    """Return the events of a call, without numbers."""
    return [
        f"output_item.added [{index}]",
        *[f"function_call_arguments.delta [{index}]"] * num_deltas,
        f"function_call_arguments.done [{index}]",
        f"output_item.done [{index}]",
    ]


def reasoning(index: int, num_deltas: int) -> list[str]:
    return text_item(index, "reasoning_text", num_deltas)


def message(index: int, num_deltas: int) -> list[str]:
    return text_item(index, "output_text", num_deltas)


CASES: dict[str, tuple[list[int], list[str]]] = {
    "answer": (answer("One two"), [*reasoning(0, 2), *message(1, 2), "completed"]),
    "call": (call("get_weather", '{"a":1}', "Hm."), [*reasoning(0, 2), *call_item(1, 5), "completed"]),
    "call without arguments": (call("get_weather", "", "Hm."), [*reasoning(0, 2), *call_item(1, 0), "completed"]),
    "preamble and call": (
        PREAMBLE + call("get_weather", "{}", "Hm."),
        [*message(0, 4), *reasoning(1, 2), *call_item(2, 1), "completed"],
    ),
    "two thoughts": (
        turn("<|channel|>analysis<|message|>One.<|end|><|start|>assistant") + answer("A"),
        [*reasoning(0, 2), *reasoning(1, 2), *message(2, 1), "completed"],
    ),
    "two calls": (
        call("get_weather", "{}", "Hm.")[:-1] + turn("<|end|><|start|>assistant") + call("get_weather", "{}", "Hm."),
        [*reasoning(0, 2), *call_item(1, 1), *reasoning(2, 2), *call_item(3, 1), "completed"],
    ),
    "empty answer": (answer(""), [*reasoning(0, 2), *message(1, 0), "completed"]),
    "empty reasoning": (answer("A", reasoning=""), [*message(0, 1), "completed"]),
    "reasoning only": (turn("<|channel|>analysis<|message|>Hm.<|return|>"), [*reasoning(0, 2), "completed"]),
    "no header": (turn("I'm sorry.<|return|>"), [*message(0, 3), "completed"]),
    "nothing": (turn("<|return|>"), ["completed"]),
    "cut in reasoning": (turn("<|channel|>analysis<|message|>Hm."), [*reasoning(0, 2), "incomplete"]),
    "cut in a call": (
        turn('<|channel|>commentary to=functions.get_weather<|message|>{"a'),
        [*call_item(0, 2), "incomplete"],
    ),
    "cut in an answer": (answer("One two")[:-1], [*reasoning(0, 2), *message(1, 2), "incomplete"]),
}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> tuple[AsgiClient, HandBackend]:
    backend = HandBackend()
    return AsgiClient(backend, store={"url": f"sqlite:///{tmp_path_factory.mktemp('store')}/r.sqlite"}), backend


@pytest.fixture
def say(shared: tuple[AsgiClient, HandBackend]) -> Iterator[Say]:
    """Return what makes a client whose model says these tokens."""
    client, backend = shared

    def saying(ids: list[int], **fields: Any) -> AsgiClient:
        backend.__dict__.update(HandBackend(ids, **fields).__dict__)
        return client

    yield saying
    assert backend.num_open == 0
    assert client.service._admission.num_running == 0


def post(client: AsgiClient, **body: Any) -> Any:
    return client.request("POST", "/v1/responses", json={"input": "Hi"} | body)


def events_of(text: str) -> list[dict[str, Any]]:
    """Return the events of a stream, after checking the frame of each."""
    found: list[dict[str, Any]] = []
    *frames, rest = text.split("\n\n")
    assert rest == ""
    for frame in frames:
        name, data = frame.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    return found


def short(event: dict[str, Any]) -> str:
    kind = event["type"].removeprefix("response.")
    return f"{kind} [{event['output_index']}]" if "output_index" in event else kind


def without_names(value: Any) -> Any:
    """Return a response without what differs from one request to the next: ids, times."""
    if isinstance(value, dict):
        names = ("id", "call_id", "item_id", "created_at", "completed_at")
        return {key: without_names(one) for key, one in value.items() if key not in names}
    return [without_names(one) for one in value] if isinstance(value, list) else value


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("size", [1, 5])
def test_events_come_in_order(name: str, size: int, say: Say) -> None:
    ids, expected = CASES[name]
    client = say(ids, tokens_per_event=size)

    found = [short(event) for event in events_of(post(client, stream=True, tools=TOOLS).text)]

    assert found == ["created", "in_progress", *expected]


@pytest.mark.parametrize("name", CASES)
def test_deltas_make_the_done_texts_and_these_the_response(name: str, say: Say) -> None:
    client = say(CASES[name][0])
    events = events_of(post(client, stream=True, tools=TOOLS, seed=1).text)
    response = events[-1]["response"]

    items: list[dict[str, Any]] = []
    text = ""
    for event in events:
        kind = event["type"].removeprefix("response.")
        if kind == "output_item.added":
            assert event["output_index"] == len(items)
            items.append(event["item"])
            assert event["item"]["status"] == "in_progress"
            text = ""
        elif "output_index" in event:
            item = items[event["output_index"]]
            assert event.get("item_id", item["id"]) == item["id"]
            if kind.endswith(".delta"):
                text += event["delta"]
            elif kind == "content_part.done":
                assert event["part"]["text"] == text
            elif kind == "output_item.done":
                assert event["item"] == response["output"][event["output_index"]]
                assert event["item"]["id"] == item["id"]
            elif kind == "function_call_arguments.done":
                assert (event["arguments"], event["name"]) == (text, item["name"])
            elif kind in ("output_text.done", "reasoning_text.done"):
                assert event["text"] == text
    assert len(items) == len(response["output"])
    assert len({item["id"] for item in items}) == len(items)


@pytest.mark.parametrize("name", CASES)
def test_a_stream_ends_with_what_a_whole_answer_is(name: str, say: Say) -> None:
    client = say(CASES[name][0], num_cached=3)
    request = {"tools": TOOLS, "seed": 1, "include": ["message.output_text.logprobs"], "top_logprobs": 2}

    streamed = events_of(post(client, stream=True, **request).text)[-1]["response"]
    whole = post(client, **request).json()

    assert without_names(streamed) == without_names(whole)
    assert whole["usage"]["input_tokens_details"]["cached_tokens"] == 3
    assert whole["status"] == ("incomplete" if name.startswith("cut") else "completed")
    assert (whole["incomplete_details"] or {}).get("reason") == (
        "max_output_tokens" if name.startswith("cut") else None
    )


def test_the_item_that_was_cut_is_incomplete_and_the_one_before_is_not(say: Say) -> None:
    output = post(say(CASES["cut in an answer"][0])).json()["output"]
    assert [item["status"] for item in output] == ["completed", "incomplete"]


def test_preambles_and_answers_say_which_they_are(say: Say) -> None:
    ids = PREAMBLE + answer("Done.")
    output = post(say(ids)).json()["output"]
    assert [item.get("phase") for item in output] == ["commentary", None, "final_answer"]


def test_usage_counts_reasoning(say: Say) -> None:
    usage = post(say(answer("One two", reasoning="Three four five."))).json()["usage"]
    assert usage["output_tokens"] == len(answer("One two", reasoning="Three four five."))
    assert usage["output_tokens_details"] == {"reasoning_tokens": 4}
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]


def test_logprobs_belong_to_the_deltas_that_they_came_with(say: Say) -> None:
    client = say(answer("One two three"), tokens_per_event=2)
    request = {"stream": True, "include": ["message.output_text.logprobs"], "top_logprobs": 1}
    events = events_of(post(client, **request).text)

    deltas = [event for event in events if event["type"] == "response.output_text.delta"]
    for event in deltas:
        assert "".join(one["token"] for one in event["logprobs"]) == event["delta"]
        assert all(len(one["top_logprobs"]) == 1 for one in event["logprobs"])
    (done,) = [event for event in events if event["type"] == "response.output_text.done"]
    assert done["logprobs"] == [one for event in deltas for one in event["logprobs"]]


def test_a_failure_before_the_first_token_is_a_status(say: Say) -> None:
    for stream in (False, True):
        response = post(say(answer("A"), error=EngineStopped("dead")), stream=stream)
        assert response.status_code == 503
        assert response.json()["error"]["code"] == "unavailable"


def test_a_failure_in_a_stream_is_its_last_event(say: Say) -> None:
    client = say(answer("One two three"), error=EngineStopped("dead"), fails_after=12)
    events = events_of(post(client, stream=True).text)

    assert [short(event) for event in events][-3:] == ["content_part.added [1]", "output_text.delta [1]", "failed"]
    response = events[-1]["response"]
    assert response["status"] == "failed"
    assert response["error"]["code"] == "server_error"
    assert "dead" not in response["error"]["message"]
    assert response["output"][1] | {"content": []} == response["output"][1] | {"status": "incomplete", "content": []}
    assert response["output"][1]["content"][0]["text"] == "One"
    assert response["usage"]["output_tokens"] == 12


def test_another_dialect_has_other_names_for_the_same_events() -> None:
    streams = [
        events_of(
            post(AsgiClient(HandBackend(answer("One two")), http={"responses_dialect": dialect}), stream=True).text
        )
        for dialect in ("openai", "openresponses")
    ]
    kinds = [[event["type"] for event in stream] for stream in streams]

    assert "response.reasoning_text.delta" in kinds[0]
    assert kinds[1] == [kind.replace("reasoning_text", "reasoning") for kind in kinds[0]]
    assert streams[1][-1]["response"]["output"][0]["content"] == [{"type": "reasoning_text", "text": "Hm."}]


def test_without_parallel_calls_the_turn_ends_with_the_first(say: Say) -> None:
    client = say(CASES["two calls"][0])
    for stream in (False, True):
        response = post(client, tools=TOOLS, parallel_tool_calls=False, stream=stream)
        body = events_of(response.text)[-1]["response"] if stream else response.json()
        assert [item["type"] for item in body["output"]] == ["reasoning", "function_call"]
        assert body["status"] == "completed"
        assert body["parallel_tool_calls"] is False
