"""Who may change the number of expert workers, and what the command says."""

import asyncio

import httpx
import pytest
from typer.testing import CliRunner

from cluster.errors import PlacementError
from router.api.cluster import Scale
from router.app import create_app
from router.auth import KeyRing
from router.cli import app
from tests.router.fakes.hand_backend import HandBackend
from tests.router.fakes.hand_server import hand_config, hand_service, running

OPERATOR, CLIENT = "key-of-the-operator", "key-of-a-client"
RING = KeyRing([OPERATOR, CLIENT])
OPERATORS = {"operators": [RING.check(f"Bearer {OPERATOR}")]}


def put(
    body: object, scale: Scale | None, keys: KeyRing | None = None, key: str = "", **auth: object
) -> httpx.Response:
    """Return the answer of an application of its own."""
    backend = HandBackend([])
    application = create_app(hand_service(backend, auth=auth), hand_config(auth=auth), keys or KeyRing(), scale=scale)

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(application)
        headers = {"authorization": f"Bearer {key}"} if key else {}
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.put("/cluster/workers", json=body, headers=headers)

    return asyncio.run(send())


class Scaled:
    """Takes what was asked for; at most three workers can be had."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    async def __call__(self, num_workers: int) -> None:
        if num_workers > 3:
            raise PlacementError("too many for this test")
        self.asked.append(num_workers)


def test_without_keys_whoever_is_on_this_machine_may_scale() -> None:
    scaled = Scaled()
    answer = put({"num_workers": 3}, scaled)
    assert (answer.status_code, answer.json()) == (200, {"num_workers": 3})
    assert scaled.asked == [3]


def test_a_key_may_scale_only_if_the_config_says_so() -> None:
    scaled = Scaled()
    assert put({"num_workers": 3}, scaled, RING, CLIENT, **OPERATORS).status_code == 403
    assert put({"num_workers": 3}, scaled, RING, "", **OPERATORS).status_code == 401
    assert put({"num_workers": 3}, scaled, RING, OPERATOR).status_code == 403
    assert scaled.asked == []
    assert put({"num_workers": 2}, scaled, RING, OPERATOR, **OPERATORS).status_code == 200
    assert scaled.asked == [2]


@pytest.mark.parametrize("body", [{}, {"num_workers": "four"}, {"num_workers": -1}, {"num_workers": 10**6}])
def test_anything_but_a_number_of_workers_is_refused_by_name(body: dict[str, object]) -> None:
    answer = put(body, Scaled())
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "num_workers"


def test_why_there_cannot_be_so_many_is_told() -> None:
    answer = put({"num_workers": 4}, Scaled())
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, "too many for this test")


def test_a_server_of_one_process_says_so() -> None:
    answer = put({"num_workers": 4}, None)
    assert answer.status_code == 400
    assert "one process" in answer.json()["error"]["message"]


def test_the_command_tells_the_servers_refusal() -> None:
    with running(HandBackend([])) as server:
        result = CliRunner().invoke(app, ["scale", "4", "--url", server.url])
    assert result.exit_code == 1
    assert result.stderr == "error: This server is one process: it has no workers to add or remove.\n"
