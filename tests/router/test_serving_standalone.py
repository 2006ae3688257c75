"""The standalone form beyond its start: what ends it."""

import asyncio
import io
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import grpc
import httpx
import pytest
import torch
from grpc_health.v1 import health_pb2, health_pb2_grpc
from rich.console import Console

from cluster.standalone import Standalone, StandaloneSections
from model.load import Report, no_report
from router.api.grpc_server import start_grpc_server
from router.app import create_app, uvicorn_config
from router.backend import StandaloneBackend
from router.config import load_config
from router.errors import PlatformRefused, StartFailed
from router.serving_standalone import _Loading, _Server, serve_standalone
from tests.e2e.served import free_port, is_port_free
from tests.router.fakes.hand_backend import HandBackend
from tests.router.fakes.hand_server import hand_config, hand_service


class AsksWhileItStops:
    """An engine that, while it is stopped, asks gRPC's health how it stands."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.answers: list[int] = []

    def stop(self) -> None:
        with grpc.insecure_channel(f"127.0.0.1:{self._port}") as channel:
            health: Any = health_pb2_grpc.HealthStub(channel)
            self.answers.append(health.Check(health_pb2.HealthCheckRequest(), timeout=10).status)


def test_grpc_health_says_that_nobody_is_served_before_http_drains() -> None:
    config = hand_config()

    async def scenario() -> list[int]:
        service = hand_service(HandBackend())
        grpc_server = await start_grpc_server(service, config)
        loading, engine = _Loading(config, StandaloneBackend()), AsksWhileItStops(grpc_server.port)
        loading.standalone = cast(Standalone, engine)
        server = _Server(uvicorn_config(create_app(service, config), config.edge.http), loading, grpc_server)
        running = asyncio.create_task(server.serve())
        while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.01)
        await asyncio.to_thread(engine.stop)
        server.should_exit = True
        await running
        await grpc_server.stop(0)
        return engine.answers

    states = health_pb2.HealthCheckResponse
    assert asyncio.run(asyncio.wait_for(scenario(), 30)) == [states.SERVING, states.NOT_SERVING]


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_an_engine_that_stops_ends_the_server_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real engine of the embedded model; while it runs the server answers, then nothing listens any more."""
    loaded: list[Standalone] = []
    load = Standalone.load

    def load_and_keep(sections: StandaloneSections, report: Report = no_report) -> Standalone:
        loaded.append(load(sections, report))
        return loaded[-1]

    monkeypatch.setattr(Standalone, "load", load_and_keep)
    ports = free_port(), free_port()
    config = load_config("tiny-standalone", [f"edge.http.port={ports[0]}", f"edge.grpc.port={ports[1]}"])
    is_ready = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(serve_standalone, config, Console(file=io.StringIO()), 0.0, lambda _: is_ready.set())
        assert is_ready.wait(180)
        assert httpx.get(f"http://127.0.0.1:{ports[0]}/ready", trust_env=False).status_code == 200
        loaded[0].engine.stop()
        with pytest.raises(StartFailed, match="nothing brings it back: the engine was stopped"):
            ended.result(30)
    assert is_port_free(ports)


@pytest.mark.skipif(torch.cuda.is_available(), reason="here is a GPU")
def test_a_preset_for_a_gpu_is_refused_where_there_is_none() -> None:
    with pytest.raises(PlatformRefused, match="PyTorch finds no CUDA device on this machine"):
        serve_standalone(load_config("gpt-oss-20b-1gpu", ["model.path=tiny"]), Console(file=io.StringIO()), 0.0)
