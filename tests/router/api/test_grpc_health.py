"""Standard gRPC health: what it says, who may watch, and how a server leaves."""

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from protos import inference_pb2 as pb
from protos import inference_pb2_grpc as rpc
from router.api.grpc_health import MAX_WATCHERS, WATCH_INTERVAL_S
from router.api.grpc_server import SERVICE, start_grpc_server
from router.backend import Readiness
from tests.router.fakes.hand_backend import READY, HandBackend
from tests.router.fakes.hand_server import HandServer, hand_config, hand_service, running
from tests.router.fakes.scripts import turn


class CountingBackend(HandBackend):
    """Counts how often it is asked whether it is ready."""

    num_asked = 0

    async def ready(self) -> Readiness:
        self.num_asked += 1
        return await super().ready()


@pytest.fixture
def server() -> Iterator[HandServer]:
    with running(HandBackend()) as one:
        yield one


def test_health_is_the_backends_readiness(server: HandServer) -> None:
    serving, waiting = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
    with grpc.insecure_channel(server.grpc_address) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        for service in ("", SERVICE):
            assert health.Check(health_pb2.HealthCheckRequest(service=service), timeout=20).status == serving
        with pytest.raises(grpc.RpcError) as caught:
            health.Check(health_pb2.HealthCheckRequest(service="nobody"), timeout=20)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND

        watched = health.Watch(health_pb2.HealthCheckRequest(), timeout=20)
        assert next(watched).status == serving
        server.backend.readiness = Readiness(is_ready=False, stage="loading")
        assert next(watched).status == waiting
        watched.cancel()


def test_watchers_have_a_limit_and_one_poll_feeds_them_all() -> None:
    """The readiness that is asked for while 64 watch is that of one; after they left, another may come."""
    backend = CountingBackend(readiness=Readiness(is_ready=False, stage="loading"))
    with running(backend) as server, grpc.insecure_channel(server.grpc_address) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        began_s = time.monotonic()
        watched = [health.Watch(health_pb2.HealthCheckRequest(), timeout=60) for _ in range(MAX_WATCHERS)]
        assert {next(one).status for one in watched} == {health_pb2.HealthCheckResponse.NOT_SERVING}
        with pytest.raises(grpc.RpcError) as caught:
            next(health.Watch(health_pb2.HealthCheckRequest(), timeout=20))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        backend.readiness = READY
        assert {next(one).status for one in watched} == {health_pb2.HealthCheckResponse.SERVING}
        assert backend.num_asked <= 2 + (time.monotonic() - began_s) / WATCH_INTERVAL_S
        for one in watched:
            one.cancel()
        deadline_s = time.monotonic() + 20
        while not _may_watch(health):
            assert time.monotonic() < deadline_s, "the places of those who left are not free"


def _may_watch(health: Any) -> bool:
    watched = health.Watch(health_pb2.HealthCheckRequest(), timeout=20)
    try:
        return next(watched).status == health_pb2.HealthCheckResponse.SERVING
    except grpc.RpcError:
        return False
    finally:
        watched.cancel()


def test_a_server_that_leaves_says_so_and_lets_streams_end() -> None:
    """A stream of 40 tokens is whole though the server was told to stop after its first; a new call is refused."""
    ids = turn("word " * 40)[:40]

    async def scenario() -> None:
        backend = HandBackend(ids, delay_s=0.02)
        server = await start_grpc_server(hand_service(backend), hand_config())
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            stub: Any = rpc.InferenceStub(channel)
            health: Any = health_pb2_grpc.HealthStub(channel)
            watched = aiter(health.Watch(health_pb2.HealthCheckRequest(), timeout=20))
            assert (await anext(watched)).status == health_pb2.HealthCheckResponse.SERVING
            stream = aiter(stub.Generate(pb.GenerateRequest(text="x", sampling=pb.Sampling(max_tokens=40)), timeout=20))
            assert (await anext(stream)).HasField("started")
            stopping = asyncio.create_task(server.stop(20))
            assert [one.status async for one in watched] == [health_pb2.HealthCheckResponse.NOT_SERVING]
            assert not stopping.done()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.ListModels(pb.ListModelsRequest(), timeout=5)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert [token_id async for one in stream for token_id in one.delta.token_ids] == ids
            await asyncio.wait_for(stopping, 5)
        assert backend.num_open == 0

    asyncio.run(asyncio.wait_for(scenario(), 30))


def test_a_server_that_nobody_is_sent_to_does_not_serve_until_it_is_sent_calls_again() -> None:
    serving, waiting = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING

    async def scenario() -> None:
        server = await start_grpc_server(hand_service(HandBackend()), hand_config())
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            health: Any = health_pb2_grpc.HealthStub(channel)
            watched = aiter(health.Watch(health_pb2.HealthCheckRequest(), timeout=20))
            for is_routed, status in ((True, serving), (False, waiting), (True, serving)):
                server.health.routed(is_routed)
                assert (await anext(watched)).status == status
                assert (await health.Check(health_pb2.HealthCheckRequest(), timeout=20)).status == status
            await server.stop(5)

    asyncio.run(asyncio.wait_for(scenario(), 30))
