"""Attention replicas go while they run sequences, by scale-down or by a new deployment: streams go on.

Everything that clients are told is compared with what they are told when nothing happens.
"""

import re
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import grpc
import httpx
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from cluster.warden import Run
from tests.e2e.served import Served, served
from tests.e2e.test_cluster_life import eventually, pids_titled
from tests.e2e.test_joined_cluster import run_program
from tests.support.ray_nodes import ray_nodes

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

SETTINGS = {
    "attention.max_replicas": "2",
    "attention.target_sequences": "4.0",
    "attention.upscale_delay_s": "0.5",
    "attention.downscale_delay_s": "1.0",
    "attention.drain_timeout_s": "300.0",
}
"""The grace is longer than the test may take: a replica that only waits for its sequences would still be there."""
LONG, SHORT = 1500, 40
NUM_LONG, NUM_SHORT = 4, 12
REDEPLOY = """
import sys
import ray
from ray import serve
from router.config import load_config
from router.deployments import APPLICATION, build
ray.init(address="auto", log_to_driver=False)
config = load_config("tiny-collapsed", sys.argv[1:])
serve.run(build(config.model_dump(mode="json")), name=APPLICATION, route_prefix="/")
"""


@pytest.fixture(scope="module")
def nodes() -> Generator[dict[str, str]]:
    with ray_nodes([{"attention": 1}]) as environment:
        yield environment


@pytest.fixture(scope="module")
def server(nodes: dict[str, str]) -> Generator[Served]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in nodes.items():
            patch.setenv(name, value)
        arguments = [part for name, value in SETTINGS.items() for part in ("--set", f"{name}={value}")]
        with served("tiny-collapsed", *arguments, joins_ray=True) as running:
            yield running


@pytest.fixture(scope="module")
def expected(server: Served) -> dict[int, str]:
    """What each long stream says when nothing happens."""
    with ThreadPoolExecutor(NUM_LONG) as pool:
        return dict(enumerate(pool.map(lambda seed: stream(server, seed, Progress()), range(NUM_LONG))))


class Progress:
    """How many events a stream has had."""

    num_events = 0


def stream(server: Served, seed: int, progress: Progress, num_tokens: int = LONG) -> str:
    """Return a stream's text; fails unless it ends as it should."""
    body = {"model": "tiny", "prompt": "Once upon a time", "max_tokens": num_tokens, "seed": seed, "temperature": 1.5}
    options = {"stream": True, "ignore_eos": True}
    url = f"{server.url}/v1/completions"
    events: list[Any] = []
    with httpx.stream("POST", url, json=body | options, trust_env=False, timeout=300) as answer:
        assert answer.status_code == httpx.codes.OK
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                assert '"error"' not in line, line
                events.append(line)
                progress.num_events += 1
    texts = [re.search(r'"text":("(?:[^"\\]|\\.)*")', event) for event in events]
    assert '"finish_reason":"length"' in events[-1], events[-1]
    return "".join(found[1][1:-1] for found in texts if found)


def replicas(nodes: dict[str, str]) -> set[int]:
    """Return the attention replicas' processes."""
    return set(pids_titled(Run("no mark", nodes["RAY_TMPDIR"], frozenset()), "ray::ServeReplica:expertmesh:Attention"))


def start_long(server: Served, pool: ThreadPoolExecutor) -> tuple[list["Future[str]"], list[Progress]]:
    """Begin all long streams; return once each has said something."""
    progress = [Progress() for _ in range(NUM_LONG)]
    streams = [pool.submit(stream, server, seed, progress[seed]) for seed in range(NUM_LONG)]
    eventually(lambda: all(one.num_events for one in progress))
    return streams, progress


def load_until_two(server: Served, nodes: dict[str, str]) -> set[int]:
    """Keep short requests coming until there is a second replica; return both."""
    with ThreadPoolExecutor(NUM_SHORT) as pool:
        while num_ready(server) < 2:
            list(pool.map(lambda seed: stream(server, seed, Progress(), SHORT), range(NUM_SHORT)))
    both = replicas(nodes)
    assert len(both) == 2
    return both


def num_ready(server: Served) -> int:
    components = httpx.get(f"{server.url}/ready", trust_env=False, timeout=60).json()["components"]
    return sum(one["is_ready"] and one["name"].startswith("attention") for one in components)


def assert_goes_on(streams: list["Future[str]"], expected: dict[int, str]) -> None:
    """Fail unless the streams were running while it happened, and end as if it had not."""
    assert not any(one.done() for one in streams), "the streams were too short to show anything"
    assert {seed: one.result() for seed, one in enumerate(streams)} == expected


def test_a_replica_that_is_scaled_down_hands_its_streams_over_and_is_gone_before_they_end(
    server: Served, nodes: dict[str, str], expected: dict[int, str]
) -> None:
    """Four streams run on two replicas; calm ends one of them, whose grace of minutes is not waited for."""
    with ThreadPoolExecutor(NUM_LONG) as pool:
        both = load_until_two(server, nodes)
        streams, _ = start_long(server, pool)
        eventually(lambda: len(both & replicas(nodes)) == 1)
        assert_goes_on(streams, expected)


def test_a_new_deployment_keeps_the_streams_alive(
    server: Served, nodes: dict[str, str], expected: dict[int, str]
) -> None:
    """Other limits of the engine make every replica anew, the edge too, which says so to who watches its health."""
    ports = [f"edge.http.port={server.http_port}", f"edge.grpc.port={server.grpc_port}"]
    settings = [f"{name}={value}" for name, value in SETTINGS.items()]
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel, ThreadPoolExecutor(NUM_LONG + 2) as pool:
        health: list[int] = []
        stub: Any = HealthStub(channel)
        watched = stub.Watch(HealthCheckRequest(), timeout=300)
        pool.submit(lambda: health.extend(one.status for one in watched))
        eventually(lambda: health == [HealthCheckResponse.SERVING])
        streams, _ = start_long(server, pool)
        before = replicas(nodes)
        deployed = pool.submit(run_program, nodes, REDEPLOY, *settings, *ports, "engine.max_running_sequences=24")
        eventually(lambda: not before & replicas(nodes))
        eventually(lambda: health == [HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING])
        assert_goes_on(streams, expected)
        status, said = deployed.result()
        assert status == 0, said
    assert stream(server, 0, Progress()) == expected[0]
