"""A served application on Ray whose expert workers are all killed under load: the supervisor makes them anew.

Two workers with two copies of each expert and no fallback: the first kill finds another copy, the second leaves none,
so that every step waits for a worker of the supervisor. Sixteen clients see only that it takes longer.
"""

import json
import os
import signal
import threading
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.mixed_requests import MixedRequest, comparable, mixed_requests
from tests.e2e.served import Served, is_port_free, served
from tests.e2e.test_cluster_life import empty_root, eventually, pids_titled, run_of

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

NUM_STREAMS = 4
OPTIONS = ("--set", "experts.num_workers=2", "--set", "experts.copies=2", "--set", "experts.fallback_bytes=0")


@pytest.fixture(scope="module")
def root() -> Generator[Path]:
    with empty_root("ch") as path:
        yield path


@pytest.fixture(scope="module")
def server(root: Path) -> Generator[Served]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(root))
        with served("tiny", *OPTIONS) as running:
            patch.undo()
            yield running
    assert is_port_free([running.http_port, running.grpc_port])


def requests() -> list[MixedRequest]:
    """Return thirteen of the mixed requests: every fifth, and the longest prompts."""
    return [*mixed_requests()[::5], *mixed_requests()[31:34]]


def streamed(client: httpx.Client, seed: int) -> list[Any]:
    """Return a stream's choices as they came, joined: how the text was cut up may vary."""
    body = {"model": "tiny", "prompt": "Once upon a time", "max_tokens": 60, "seed": seed, "temperature": 1.5}
    options = {"stream": True, "ignore_eos": True}
    text, finish_reasons = "", []
    with client.stream("POST", "/v1/completions", json=body | options) as answer:
        assert answer.status_code == httpx.codes.OK
        for line in answer.iter_lines():
            if line.startswith("data: ") and line != "data: [DONE]":
                event = json.loads(line.removeprefix("data: "))
                assert "error" not in event, event
                for choice in event["choices"]:
                    text += choice["text"]
                    finish_reasons += [choice["finish_reason"]] if choice["finish_reason"] else []
    return [text, finish_reasons]


def ask_all(server: Served) -> dict[str, Any]:
    """Send everything at once and return what is comparable of the answers."""
    with httpx.Client(base_url=server.url, trust_env=False, timeout=240.0) as client:
        model = client.get("/v1/models").json()["data"][0]["id"]

        def ask(request: MixedRequest | int) -> Any:
            if isinstance(request, int):
                return streamed(client, request)
            return comparable(client.post(request.path, json={"model": model, **request.body}))

        asked: list[MixedRequest | int] = [*requests(), *range(NUM_STREAMS)]
        with ThreadPoolExecutor(len(asked)) as pool:
            return dict(zip(map(str, asked), pool.map(ask, asked), strict=True))


def test_all_workers_die_one_after_the_other_and_no_client_sees_more_than_a_pause(server: Served, root: Path) -> None:
    expected = ask_all(server)
    assert len(expected) >= 16
    killed: list[int] = []

    def kill_all() -> None:
        for pid in pids_titled(run_of(root), "ray::ExpertWorker"):
            time.sleep(0.3)
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)

    killer = threading.Thread(target=kill_all)
    killer.start()
    answers = ask_all(server)
    assert len(killed) == 2, "the requests were over too soon"
    killer.join()
    assert answers == expected
    eventually(lambda: len(pids_titled(run_of(root), "ray::ExpertWorker")) == 2)
    assert not set(killed) & set(pids_titled(run_of(root), "ray::ExpertWorker"))
    ready = f"{server.url}/ready"
    eventually(lambda: httpx.get(ready, trust_env=False).json()["placement"].startswith("2 of 2 workers"))
    assert ask_all(server) == expected
