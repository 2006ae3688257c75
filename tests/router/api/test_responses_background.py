"""Background responses by the official openai client: polled, left and resumed, cancelled, deleted, failed."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
from openai import OpenAI

from tests.router.fakes.hand_backend import HandBackend
from tests.router.fakes.hand_server import HandServer, running
from tests.router.fakes.scripts import answer


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HandServer]:
    url = f"sqlite:///{tmp_path_factory.mktemp('store')}/responses.sqlite"
    with running(HandBackend(), store={"url": url}) as one:
        yield one


@pytest.fixture
def client(server: HandServer) -> Iterator[OpenAI]:
    server.backend.__dict__.update(HandBackend().__dict__)
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as one:
        yield one
    assert wait_until(lambda: server.backend.num_open == 0)
    assert wait_until(lambda: server.service._admission.num_running == 0)


def say(server: HandServer, ids: list[int], **fields: Any) -> None:
    """Let the backend give `ids` to everybody."""
    server.backend.__dict__.update({"default": ids} | fields)


def wait_until(is_true: Callable[[], bool], timeout_s: float = 10.0) -> bool:
    deadline_s = time.monotonic() + timeout_s
    while not is_true() and time.monotonic() < deadline_s:
        time.sleep(0.02)
    return is_true()


def test_a_background_response_is_polled(server: HandServer, client: OpenAI) -> None:
    say(server, answer("Done at last."), delay_s=0.02)
    made = client.responses.create(model="hand", input="Hi", background=True)
    assert made.status == "queued"
    assert client.responses.retrieve(made.id).status in {"queued", "in_progress"}
    with pytest.raises(openai.BadRequestError):
        client.responses.create(model="hand", input="Hi", previous_response_id=made.id)

    assert wait_until(lambda: client.responses.retrieve(made.id).status == "completed")
    assert client.responses.retrieve(made.id).output_text == "Done at last."


def test_a_background_stream_is_left_and_resumed(server: HandServer, client: OpenAI) -> None:
    say(server, answer("word " * 40), delay_s=0.02)
    seen: list[Any] = []
    with client.responses.create(model="hand", input="Hi", background=True, stream=True) as stream:
        for event in stream:
            seen.append(event)
            if event.sequence_number == 10:
                break
    assert [event.type for event in seen[:3]] == ["response.created", "response.queued", "response.in_progress"]
    assert server.backend.num_open == 1, "it goes on without its client"

    response_id = seen[0].response.id
    with ThreadPoolExecutor(4) as threads:
        several: Any = list(
            threads.map(
                lambda _: list(client.responses.retrieve(response_id, stream=True, starting_after=10)), range(4)
            )
        )
    for rest in several:
        events = [*seen, *rest]
        assert [event.sequence_number for event in events] == list(range(len(events)))
        text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
        assert text == "word " * 40 == events[-1].response.output_text
    assert server.backend.aborted == []


def test_a_background_response_is_cancelled(server: HandServer, client: OpenAI) -> None:
    say(server, answer("word " * 200), delay_s=0.02)
    made = client.responses.create(model="hand", input="Hi", background=True)
    assert wait_until(lambda: server.backend.num_open == 1)
    time.sleep(0.3)

    cancelled = client.responses.cancel(made.id)

    assert cancelled.status == "cancelled"
    assert len(server.backend.aborted) == 1
    assert client.responses.cancel(made.id).status == "cancelled"
    last: Any = list(client.responses.retrieve(made.id, stream=True))[-1]
    assert last.response.status == "cancelled"
    finished = client.responses.create(model="hand", input="Hi", max_output_tokens=3)
    assert finished.status == "incomplete"
    with pytest.raises(openai.BadRequestError):
        client.responses.cancel(finished.id)


def test_a_background_response_that_is_deleted_stops(server: HandServer, client: OpenAI) -> None:
    say(server, answer("word " * 200), delay_s=0.02)
    made = client.responses.create(model="hand", input="Hi", background=True)
    assert wait_until(lambda: server.backend.num_open == 1)

    client.responses.delete(made.id)

    assert wait_until(lambda: len(server.backend.aborted) == 1)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(made.id)


def test_a_background_response_fails_truthfully(server: HandServer, client: OpenAI) -> None:
    say(server, answer("word " * 5), error=RuntimeError("inside"), fails_after=14)
    made = client.responses.create(model="hand", input="Hi", background=True)

    assert wait_until(lambda: client.responses.retrieve(made.id).status == "failed")
    failed = client.responses.retrieve(made.id)
    assert failed.error is not None
    assert failed.error.code == "server_error"
    assert "inside" not in failed.error.message
    assert failed.output_text.startswith("word")


def test_what_the_engine_refuses_is_named_in_the_words_of_responses(server: HandServer, client: OpenAI) -> None:
    say(server, [], refusal="response_format.json_schema.schema.properties.a.pattern: no regex")
    made = client.responses.create(model="hand", input="Hi", background=True)

    assert wait_until(lambda: client.responses.retrieve(made.id).status == "failed")
    error = client.responses.retrieve(made.id).error
    assert error is not None
    assert error.message == "text.format.schema.properties.a.pattern: no regex."
