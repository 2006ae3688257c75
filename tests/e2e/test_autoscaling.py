"""Attention replicas follow the load: sequences that are held open make more of them, calm takes them away."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.e2e.served import Served, served

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

SETTINGS = (
    "attention.max_replicas=2",
    "attention.target_sequences=2.0",
    "attention.upscale_delay_s=0.5",
    "attention.downscale_delay_s=3.0",
)
NUM_STREAMS = 8


def complete(server: Served, seed: int) -> dict[str, Any]:
    body = {"model": "tiny", "prompt": "Once upon a time", "max_tokens": 150, "seed": seed, "ignore_eos": True}
    answer = httpx.post(f"{server.url}/v1/completions", json=body | {"logprobs": 1}, trust_env=False, timeout=240)
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]


def num_replicas(server: Served) -> int:
    components = httpx.get(f"{server.url}/ready", trust_env=False, timeout=60).json()["components"]
    return sum(one["is_ready"] and one["name"].startswith("attention") for one in components)


def test_replicas_come_with_sequences_and_go_with_them_and_tokens_stay_the_same() -> None:
    arguments = [part for setting in SETTINGS for part in ("--set", setting)]
    with served("tiny-collapsed", *arguments) as server, ThreadPoolExecutor(NUM_STREAMS) as pool:
        assert num_replicas(server) == 1
        expected: dict[int, dict[str, Any]] = {}
        deadline_s = time.monotonic() + 240
        while num_replicas(server) < 2:
            assert time.monotonic() < deadline_s, "no second replica came"
            answers = list(pool.map(lambda seed: complete(server, seed), range(NUM_STREAMS)))
            expected |= dict(enumerate(answers))
        answers = list(pool.map(lambda seed: complete(server, seed), range(NUM_STREAMS)))
        assert dict(enumerate(answers)) == expected
        deadline_s = time.monotonic() + 120
        while num_replicas(server) > 1:
            assert time.monotonic() < deadline_s, "the second replica stayed"
            time.sleep(0.5)
        assert complete(server, 0) == expected[0]
