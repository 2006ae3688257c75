"""A cluster of three Ray nodes that somebody else runs: attention on one, workers on the others, and a clean leave."""

import re
import subprocess
import sys
import time
from collections.abc import Generator

import httpx
import pytest

from tests.e2e.served import Served, served
from tests.support.ray_nodes import ray_nodes

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

LIST_ACTORS = """
import ray
ray.init(address="auto", log_to_driver=False, logging_level="ERROR")
print(*sorted(entry["name"] for entry in ray.util.list_named_actors(all_namespaces=True)), sep="\\n")
"""


@pytest.fixture(scope="module")
def nodes() -> Generator[dict[str, str]]:
    """The environment that joins a node for attention and two for experts."""
    with ray_nodes([{"attention": 1}, {"expert": 2}, {"expert": 2}]) as environment:
        yield environment


def actor_names(environment: dict[str, str]) -> list[str]:
    command = [sys.executable, "-c", LIST_ACTORS]
    listed = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
    return listed.stdout.split()


def test_attention_and_workers_sit_on_different_nodes_and_leave_nothing(
    nodes: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in nodes.items():
        monkeypatch.setenv(name, value)
    with served("tiny", "--set", 'experts.worker_resources={"expert": 1}', joins_ray=True) as server:
        details = node_of_component(server)
        attention = {node for name, node in details.items() if name.startswith("attention")}
        workers = [node for name, node in details.items() if name.startswith("worker")]
        assert len(attention) == 1
        assert len(workers) == 4
        assert len(set(workers)) == 2
        assert not attention & set(workers)
        body = {"model": "tiny", "prompt": "Hello", "max_tokens": 4, "seed": 1}
        answer = httpx.post(f"{server.url}/v1/completions", json=body, trust_env=False, timeout=120)
        assert answer.json()["usage"]["completion_tokens"] == 4
        ours = actor_names(nodes)
        assert sum(":worker:" in name for name in ours) == 4
    deadline_s = time.monotonic() + 30
    while left := actor_names(nodes):
        assert time.monotonic() < deadline_s, f"left on the cluster: {left}"


def node_of_component(server: Served) -> dict[str, str]:
    """Return the Ray node of every component that /ready names."""
    components = httpx.get(f"{server.url}/ready", trust_env=False, timeout=60).json()["components"]
    return {one["name"]: re.findall(r"on (node \w+)", one["detail"])[0] for one in components}
