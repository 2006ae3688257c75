"""Two edges over one store: what one runs the other tells, cancels and, if its edge is gone for long, calls failed."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI
from sqlalchemy import create_engine, update

from router.store_tables import RESPONSES
from tests.router.fakes.hand_backend import HandBackend
from tests.router.fakes.hand_server import HandServer, running
from tests.router.fakes.scripts import answer
from tests.support.postgres import running_postgres


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path_factory.mktemp('store')}/responses.sqlite"
    else:
        with running_postgres() as found:
            yield found


@pytest.fixture
def edges(url: str) -> Iterator[tuple[HandServer, OpenAI, HandServer, OpenAI]]:
    backend = HandBackend(answer("word " * 100), delay_s=0.05)
    with (
        running(backend, store={"url": url}) as one,
        running(HandBackend(answer("other")), store={"url": url}) as other,
        OpenAI(base_url=f"{one.url}/v1", api_key="none", max_retries=0) as first,
        OpenAI(base_url=f"{other.url}/v1", api_key="none", max_retries=0) as second,
    ):
        yield one, first, other, second


def wait_until(is_true: Callable[[], bool], timeout_s: float = 20.0) -> bool:
    deadline_s = time.monotonic() + timeout_s
    while not is_true() and time.monotonic() < deadline_s:
        time.sleep(0.05)
    return is_true()


def test_another_edge_tells_what_runs_elsewhere(edges: tuple[HandServer, OpenAI, HandServer, OpenAI]) -> None:
    _, first, _, second = edges
    made = first.responses.create(model="hand", input="Hi", background=True)
    events: list[Any] = list(second.responses.retrieve(made.id, stream=True))

    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[-1].response.status == "completed"
    assert [event.to_dict() for event in first.responses.retrieve(made.id, stream=True)] == [
        event.to_dict() for event in events
    ]


def test_another_edge_cancels_what_runs_elsewhere(edges: tuple[HandServer, OpenAI, HandServer, OpenAI]) -> None:
    one, first, _, second = edges
    made = first.responses.create(model="hand", input="Hi", background=True)
    assert wait_until(lambda: one.backend.num_open == 1)

    assert second.responses.cancel(made.id).status == "cancelled"
    assert len(one.backend.aborted) == 1


def test_what_another_edge_deletes_stops(edges: tuple[HandServer, OpenAI, HandServer, OpenAI]) -> None:
    one, first, _, second = edges
    made = first.responses.create(model="hand", input="Hi", background=True)
    assert wait_until(lambda: one.backend.num_open == 1)

    second.responses.delete(made.id)

    assert wait_until(lambda: len(one.backend.aborted) == 1)
    with pytest.raises(openai.NotFoundError):
        first.responses.retrieve(made.id)


def test_a_response_whose_edge_has_been_gone_for_long_has_failed(
    edges: tuple[HandServer, OpenAI, HandServer, OpenAI], url: str
) -> None:
    """Its lease is ended by hand, as if nobody had ever renewed it; what it had finished by then is not lost."""
    one, first, _, second = edges
    made = first.responses.create(model="hand", input="Hi", background=True)
    followed = second.responses.retrieve(made.id, stream=True)
    kinds = [next(followed).type for _ in range(10)]
    assert kinds[-1] == "response.output_item.done"
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))

    def has_failed() -> bool:
        with engine.begin() as connection:
            connection.execute(update(RESPONSES).where(RESPONSES.c.id == made.id).values(lease_s=0.0))
        return second.responses.retrieve(made.id).status == "failed"

    assert wait_until(has_failed)
    engine.dispose()
    failed = second.responses.retrieve(made.id)
    assert failed.error is not None
    assert "stopped" in failed.error.message
    assert [item.type for item in failed.output] == ["reasoning"]
    last: Any = list(second.responses.retrieve(made.id, stream=True))[-1]
    assert (last.type, last.response.status) == ("response.failed", "failed")
    assert wait_until(lambda: len(one.backend.aborted) == 1), "the edge that comes back hears of it"
    assert second.responses.retrieve(made.id).to_dict() == failed.to_dict()


def test_a_whole_store_that_does_not_answer_is_told(tmp_path: Path) -> None:
    """The answer is given all the same, and says that it was not stored."""
    path = tmp_path / "responses.sqlite"
    path.write_bytes(b"no database" * 1000)
    with (
        running(HandBackend(answer("A.")), store={"url": f"sqlite:///{path}"}) as server,
        OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
    ):
        made: Any = client.responses.create(model="hand", input="Hi")
        assert (made.output_text, made.store) == ("A.", False)
        last: Any = list(client.responses.create(model="hand", input="Hi", stream=True))[-1]
        assert (last.type, last.response.store) == ("response.completed", False)
        with pytest.raises(openai.InternalServerError) as caught:
            client.responses.create(model="hand", input="Hi", background=True)
        assert caught.value.status_code == 503
        assert wait_until(lambda: server.backend.num_open == 0)
