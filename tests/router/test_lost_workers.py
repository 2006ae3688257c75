"""A lost worker on its way from the engine to the client: 503, and when to try again; a bug of ours stays a 500."""

import asyncio
from collections.abc import Generator
from contextlib import contextmanager

import httpx
import pytest

from cluster.engine.blocks import BlockCount
from cluster.engine.engine import Engine
from cluster.engine.engine_thread import EngineThread
from cluster.engine.sequence import TokenEvent
from cluster.engine.step import StepPlan, StepResult
from cluster.errors import ExpertError, WorkerLost
from cluster.token_wire import decode_step, encode_step
from protos import engine_pb2 as pb
from router.app import create_app
from router.auth import KeyRing
from router.backend import Readiness, StandaloneBackend
from router.service import InferenceService
from tests.cluster.engine.driver import hand_limits
from tests.router.fakes.asgi_client import HI
from tests.router.fakes.hand_server import MODEL, TOKENIZER, hand_config


class BrokenRunner:
    """A runner whose every step fails."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def run(self, plan: StepPlan) -> StepResult:
        """Raise the error."""
        raise self._error


@contextmanager
def backend_over(error: Exception) -> Generator[StandaloneBackend]:
    """Give a backend over an engine whose steps fail with `error`; its events cross the token stream's wire."""
    limits = hand_limits(
        vocab_size=TOKENIZER.vocab_size,
        max_context_tokens=MODEL.max_context_tokens,
        num_blocks=BlockCount(2000, 2000),
    )
    engine = EngineThread(Engine(limits), BrokenRunner(error))
    backend = StandaloneBackend()

    def on_step(events: list[TokenEvent]) -> None:
        sent = encode_step(events).SerializeToString()
        backend.on_step(decode_step(pb.EngineMessage.FromString(sent).step))

    engine.on_step = on_step
    engine.start()
    backend.attach(engine, Readiness(is_ready=True, stage="ready"))
    try:
        yield backend
    finally:
        engine.stop()


def ask(backend: StandaloneBackend, *, is_streamed: bool) -> httpx.Response:
    """Return the answer to a chat request."""
    app = create_app(InferenceService(backend, TOKENIZER, hand_config(), MODEL), hand_config(), KeyRing())

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.post("/v1/chat/completions", json={"messages": HI, "stream": is_streamed})

    return asyncio.run(send())


@pytest.mark.parametrize("error", [WorkerLost("10.0.0.1 is gone"), ExpertError("10.0.0.1 ran out of memory")])
def test_a_client_whose_workers_were_lost_may_try_again(error: Exception) -> None:
    with backend_over(error) as backend:
        response = ask(backend, is_streamed=False)
        streamed = ask(backend, is_streamed=True)
    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"
    assert response.json()["error"]["code"] == "unavailable"
    assert '"code":"unavailable"' in streamed.text.replace(" ", "")
    assert "10.0.0.1" not in response.text + streamed.text


def test_a_bug_is_not_told_as_a_lost_worker() -> None:
    with backend_over(KeyError("10.0.0.1")) as backend:
        response = ask(backend, is_streamed=False)
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "internal_error"
    assert "retry-after" not in response.headers
    assert "10.0.0.1" not in response.text
