"""A cluster of three Ray nodes that somebody else runs: attention on one, workers on the others, and a clean leave."""

import re
import subprocess
import sys
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor

import grpc
import httpx
import pytest

from cluster.supervision import APPLICATION_GRACE_S
from protos import inference_pb2 as pb
from protos import inference_pb2_grpc as rpc
from tests.e2e.served import Served, free_port, served
from tests.support.ray_nodes import ray_nodes

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

NUM_TOKENS = 600
"""Long enough to run while the application is deleted, short enough for the supervisor's grace."""
LIST_ACTORS = """
import ray
ray.init(address="auto", log_to_driver=False, logging_level="ERROR")
print(*sorted(entry["name"] for entry in ray.util.list_named_actors(all_namespaces=True)), sep="\\n")
"""


DEPLOY = """
import os, sys
import ray
from ray import serve
from router.config import load_config
from router.deployments import APPLICATION, build
ray.init(address="auto", log_to_driver=False)
config = load_config("tiny", sys.argv[1:])
serve.start(http_options={"port": config.edge.http.port})
serve.run(build(config.model_dump(mode="json")), name=APPLICATION, route_prefix="/")
os._exit(9)
"""
CHECK_INTEGRITY = """
import ray
from ray import serve
ray.init(address="auto", log_to_driver=False, logging_level="ERROR")
serve.get_deployment_handle("Attention", "expertmesh").check_integrity.remote().result(timeout_s=60)
"""
START_SERVE = """
import sys
import ray
from ray import serve
ray.init(address="auto", log_to_driver=False, logging_level="ERROR")
serve.start(http_options={"host": "0.0.0.0", "port": int(sys.argv[1])})
"""
DELETE = """
import ray
from ray import serve
ray.init(address="auto", log_to_driver=False, logging_level="ERROR")
serve.delete("expertmesh")
serve.shutdown()
"""


@pytest.fixture(scope="module")
def nodes() -> Generator[dict[str, str]]:
    """The environment that joins a node for attention and two for experts."""
    with ray_nodes([{"attention": 1}, {"expert": 2}, {"expert": 2}]) as environment:
        yield environment


def run_program(environment: dict[str, str], *arguments: str) -> tuple[int, str]:
    """Run Python source that is a driver on the cluster; return its status and output."""
    command = [sys.executable, "-c", *arguments]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    return ended.returncode, ended.stdout


def actor_names(environment: dict[str, str]) -> list[str]:
    status, output = run_program(environment, LIST_ACTORS)
    assert status == 0
    return output.split()


def eventually_empty(environment: dict[str, str], timeout_s: float) -> None:
    deadline_s = time.monotonic() + timeout_s
    while left := actor_names(environment):
        assert time.monotonic() < deadline_s, f"left on the cluster: {left}"


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
        status, _ = run_program(nodes, CHECK_INTEGRITY)
        assert status == 0, "engine, token stream and held calls disagree"
        ours = actor_names(nodes)
        assert sum(":worker:" in name for name in ours) == 4
    eventually_empty(nodes, timeout_s=30)


def test_an_application_deployed_by_its_import_path_outlives_its_creator_and_ends_when_it_is_deleted(
    nodes: dict[str, str],
) -> None:
    """What a RayService does: `router.deployments:build`, and no launcher that owns the application.

    A gRPC stream that runs when it is deleted is whole, though no HTTP request keeps its edge.
    """
    http_port, grpc_port = free_port(), free_port()
    settings = [f"edge.http.port={http_port}", f"edge.grpc.port={grpc_port}", 'experts.worker_resources={"expert": 1}']
    status, _ = run_program(nodes, DEPLOY, *settings)
    assert status == 9, "the creator died at once, as it was told to"
    body = {"model": "tiny", "prompt": "Hello", "max_tokens": 4, "seed": 1}
    url = f"http://127.0.0.1:{http_port}/v1/completions"
    answer = httpx.post(url, json=body, trust_env=False, timeout=120)
    assert answer.json()["usage"]["completion_tokens"] == 4
    with grpc.insecure_channel(f"127.0.0.1:{grpc_port}") as channel, ThreadPoolExecutor(1) as pool:
        sampling = pb.Sampling(max_tokens=NUM_TOKENS, seed=1, ignore_eos=True)
        stream = rpc.InferenceStub(channel).Generate(pb.GenerateRequest(text="Hello", sampling=sampling), timeout=200)
        assert next(stream).HasField("started")
        deletion = pool.submit(run_program, nodes, DELETE)
        last = list(stream)[-1]
        assert not deletion.done(), "the stream was too short to show anything"
        assert last.usage.num_completion_tokens == NUM_TOKENS
        status, _ = deletion.result()
    assert status == 0
    eventually_empty(nodes, timeout_s=APPLICATION_GRACE_S + 60)


@pytest.fixture
def open_port(nodes: dict[str, str]) -> Generator[int]:
    """A Serve that listens on every address: at this port."""
    port = free_port()
    status, _ = run_program(nodes, START_SERVE, str(port))
    assert status == 0
    yield port
    run_program(nodes, DELETE)
    eventually_empty(nodes, timeout_s=60)


def test_a_serve_that_listens_to_the_network_is_not_used_without_a_key_and_told_of_with_one(
    nodes: dict[str, str], open_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The config says loopback and another port; what counts is where the Serve that runs already listens."""
    command = [sys.executable, "-m", "router.cli", "serve", "tiny", "--port", "0", "--grpc-port", "0"]
    refused = subprocess.run(command, env=nodes, capture_output=True, text=True, timeout=100, check=False)
    assert refused.returncode == 1, refused.stdout
    assert f"listens on 0.0.0.0:{open_port}, where edge.http says 127.0.0.1:" in refused.stderr
    assert "an API key is required" in refused.stderr
    for name, value in (nodes | {"EXPERTMESH_API_KEYS": "secret-1"}).items():
        monkeypatch.setenv(name, value)
    claim = 'experts.worker_resources={"expert": 1}'
    with served("tiny", "--set", claim, joins_ray=True, given_http_port=open_port) as server:
        url = f"{server.url}/v1/models"
        assert httpx.get(url, trust_env=False, timeout=60).status_code == 401
        keyed = httpx.get(url, headers={"authorization": "Bearer secret-1"}, trust_env=False, timeout=60)
        assert keyed.json()["data"][0]["id"] == "tiny"
        deadline_s = time.monotonic() + 60
        while f"http://0.0.0.0:{open_port}/v1" not in (shown := server.log.read_text(encoding="utf-8")):
            assert time.monotonic() < deadline_s, shown
            time.sleep(0.2)
        assert "open to the network" in shown


def node_of_component(server: Served) -> dict[str, str]:
    """Return the Ray node of every component that /ready names."""
    components = httpx.get(f"{server.url}/ready", trust_env=False, timeout=60).json()["components"]
    return {one["name"]: re.findall(r"on (node \w+)", one["detail"])[0] for one in components}
