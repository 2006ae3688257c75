"""The same tokens everywhere: fifty mixed requests, sixteen at a time, on three forms of the same model.

Disaggregated (attention and four expert workers on Ray), collapsed (all experts beside attention on Ray) and
standalone (one process without Ray) must agree on text, reasoning, calls, finish reasons, token counts and on every
logprob to the last bit. Batches differ from run to run, since requests join and leave as others end.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.e2e.mixed_requests import MixedRequest, comparable, mixed_requests
from tests.e2e.served import Served, is_port_free, served

NUM_CLIENTS = 16


def answers(server: Served) -> dict[str, dict[str, Any]]:
    """Return what is comparable of every request's answer, sent by concurrent clients."""
    with httpx.Client(base_url=server.url, trust_env=False, timeout=240.0) as client:

        def ask(request: MixedRequest) -> dict[str, Any]:
            model = client.get("/v1/models").json()["data"][0]["id"]
            return comparable(client.post(request.path, json={"model": model, **request.body}))

        with ThreadPoolExecutor(NUM_CLIENTS) as pool:
            requests = mixed_requests()
            return dict(zip((request.name for request in requests), pool.map(ask, requests), strict=True))


@pytest.fixture(scope="module")
def standalone_answers() -> dict[str, dict[str, Any]]:
    """Return the answers of one process without Ray: what every other form is held to."""
    with served("tiny-standalone") as server:
        return answers(server)


def test_the_same_server_gives_the_same_answers_twice(standalone_answers: dict[str, dict[str, Any]]) -> None:
    with served("tiny-standalone", "--set", "attention.num_threads=1") as server:
        assert_same(answers(server), standalone_answers)


@pytest.mark.ray
@pytest.mark.timeout(420)
@pytest.mark.parametrize("preset", ["tiny", "tiny-collapsed"])
def test_the_cluster_gives_the_same_answers_as_one_process(
    preset: str, standalone_answers: dict[str, dict[str, Any]]
) -> None:
    with served(preset) as server:
        assert_same(answers(server), standalone_answers)
    assert is_port_free([server.http_port, server.grpc_port])


def test_sampled_requests_differ_by_seed(standalone_answers: dict[str, dict[str, Any]]) -> None:
    """The comparison can fail: at temperature 1.5 another seed goes on otherwise after the same prompt."""
    texts = [standalone_answers[f"completion {seed}"]["choices"][0]["text"] for seed in (1, 7)]
    assert texts[0] != texts[1]


def assert_same(left: dict[str, dict[str, Any]], right: dict[str, dict[str, Any]]) -> None:
    """Assert equality request by request, naming the first that differs."""
    for name, answer in right.items():
        assert left[name] == answer, f"{name!r} differs"
