"""Memory that runs out in steps: what clients and /ready are told, from the engine to HTTP."""

import asyncio

import httpx
import pytest

from router.app import create_app
from router.auth import KeyRing
from router.errors import tells_of_memory
from router.service import InferenceService
from tests.router.fakes.asgi_client import HI
from tests.router.fakes.hand_server import MODEL, TOKENIZER, hand_config
from tests.router.test_lost_workers import backend_over

TORCH_SAYS = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.10 GiB"


async def asked(service: InferenceService, num_requests: int) -> list[httpx.Response]:
    """Return the answers to so many chat requests, one after the other, and then to /ready."""
    config = hand_config()
    transport = httpx.ASGITransport(create_app(service, config, KeyRing()))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", timeout=20) as client:
        body = {"messages": HI, "max_tokens": 4}
        chats = [await client.post("/v1/chat/completions", json=body) for _ in range(num_requests)]
        return [*chats, await client.get("/ready")]


def test_a_step_without_memory_is_told_as_such_and_three_stop_the_engine_openly() -> None:
    """Three steps in a row stop it; whoever comes then is told that, and /ready says why."""
    with backend_over(RuntimeError(TORCH_SAYS)) as backend:
        service = InferenceService(backend, TOKENIZER, hand_config(), MODEL)
        *failed, late, ready = asyncio.run(asked(service, 4))

    for response in failed:
        assert response.status_code == 500
        error = response.json()["error"]
        assert error["code"] == "out_of_memory"
        assert "ran out of memory" in error["message"]
        assert "GiB" not in error["message"], "what the device says is for the server's log"
        assert response.headers["x-should-retry"] == "false"
    assert late.status_code == 503
    assert ready.status_code == 503
    assert ready.json()["stage"] == "stopped"
    assert TORCH_SAYS in ready.json()["detail"]


def test_who_asks_a_stopped_engine_is_told_that_it_has_stopped_and_why() -> None:
    with backend_over(RuntimeError(TORCH_SAYS)) as backend:
        service = InferenceService(backend, TOKENIZER, hand_config(), MODEL)
        asyncio.run(asked(service, 3))
        (late, _) = asyncio.run(asked(service, 1))

    error = late.json()["error"]
    assert error["code"] == "engine_stopped"
    assert error["message"].startswith("The engine has stopped after failures and takes no requests. It ran out of mem")


def test_another_failure_is_not_called_memory() -> None:
    with backend_over(RuntimeError("index 7 is out of bounds")) as backend:
        service = InferenceService(backend, TOKENIZER, hand_config(), MODEL)
        failed, _ = asyncio.run(asked(service, 1))
    assert failed.json()["error"]["code"] == "internal_error"


@pytest.mark.parametrize(
    ("text", "is_memory"),
    [
        (TORCH_SAYS, True),
        ("OutOfMemoryError: HIP", True),
        ("RuntimeError: [enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory", True),
        ("MemoryError: ", True),
        ("WorkerLost: worker-1", False),
        (None, False),
    ],
)
def test_the_words_for_exhausted_memory_are_known(text: str | None, is_memory: bool) -> None:
    assert tells_of_memory(text) is is_memory
