"""Overload over real sockets: clients that never read, deadlines, priorities and keys that reach the engine."""

import json
import socket
import time
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any, cast

import grpc
import httpx
import pytest

from cluster.errors import QueueFull
from protos import inference_pb2 as pb
from protos import inference_pb2_grpc as rpc
from router.auth import KeyRing
from router.backend import StandaloneBackend
from tests.router.fakes.hand_backend import READY, HandBackend
from tests.router.fakes.hand_server import HandServer, running
from tests.router.fakes.scripts import answer
from tests.support.hand_engine import HandEngine

HI = [{"role": "user", "content": "Hi"}]
WORDS = 3000
LOGPROBS = {"n": 4, "logprobs": True, "top_logprobs": 20}
"""With them an answer is some 25 MB: more than any buffer on the way holds."""


def eventually(claim: Callable[[], bool], timeout_s: float = 20.0) -> bool:
    deadline_s = time.monotonic() + timeout_s
    while not claim() and time.monotonic() < deadline_s:
        time.sleep(0.02)
    return claim()


def is_free(server: HandServer) -> bool:
    """Return whether nothing is left of any request: no sequence, no place."""
    return server.backend.num_open == 0 and server.service._admission.num_running == 0


def send(connection: socket.socket, port: int, body: dict[str, Any]) -> None:
    """Ask over a socket with the smallest buffer, and read nothing."""
    data = json.dumps(body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(data)}\r\n\r\n"
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", port))
    connection.sendall(head.encode() + data)


def test_ten_clients_that_never_read_cost_little_memory_and_hold_up_nobody() -> None:
    """All that waits for them is what buffers hold, far less than the 250 MB that they asked for."""
    backend = HandBackend(answer("word " * WORDS))
    with running(backend, http={"port": 0, "stalled_client_s": 1.5}) as server:
        httpx.get(f"{server.url}/health", timeout=20)
        connections = [socket.socket() for _ in range(10)]
        tracemalloc.start()
        try:
            for connection in connections:
                send(connection, server.http_port, {"messages": HI, "stream": True, **LOGPROBS})
            assert eventually(lambda: backend.num_open == 40)
            body = {"messages": HI, "max_tokens": 3}
            assert httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=20).status_code == 200
            assert eventually(lambda: is_free(server), timeout_s=60)
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
            for connection in connections:
                connection.close()
        assert peak_bytes < 40_000_000
        assert len(backend.aborted) == 40


def test_a_grpc_client_that_never_reads_is_given_up() -> None:
    """Its window does not grow: some 4 MB of messages would else wait in its own library, as read."""
    backend = HandBackend(answer("word " * WORDS))
    messages = [pb.Message(role=pb.ROLE_USER, content="Hi")]
    sampling = pb.Sampling(num_choices=4, num_logprobs=20)
    with (
        running(backend, grpc={"port": 0, "stalled_client_s": 0.5}) as server,
        grpc.insecure_channel(server.grpc_address, [("grpc.http2.bdp_probe", 0)]) as channel,
    ):
        unread = rpc.InferenceStub(channel).Chat(pb.ChatRequest(messages=messages, sampling=sampling))
        assert eventually(lambda: backend.num_open == 4)
        assert eventually(lambda: is_free(server))
        assert len(backend.aborted) == 4
        unread.cancel()


@pytest.fixture
def slow() -> Iterator[HandServer]:
    """A server whose every answer takes a minute, with the real backend of one process."""
    engine, backend = HandEngine(max_context_tokens=5000, step_s=0.1), StandaloneBackend()
    engine.on_step = backend.on_step
    backend.attach(engine, READY)
    with running(cast(HandBackend, backend)) as server:
        yield server
        assert eventually(lambda: is_free(server))
        assert engine.num_live == 0
    engine.stop()


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_a_request_with_a_timeout_is_told_that_it_passed_and_leaves_nothing(slow: HandServer, path: str) -> None:
    body = {"messages": HI} if "chat" in path else {"prompt": "Hi", "max_tokens": 600}
    began_s = time.monotonic()

    late = httpx.post(f"{slow.url}{path}", json=body | {"timeout": 0.5}, timeout=20)

    assert (late.status_code, late.json()["error"]["code"]) == (504, "timeout")
    assert "longer than 0.5 s" in late.json()["error"]["message"]
    assert time.monotonic() - began_s < 10


def test_a_stream_that_outlives_its_timeout_says_so_before_it_ends(slow: HandServer) -> None:
    body = {"messages": HI, "stream": True, "timeout": 1.0}
    with httpx.stream("POST", f"{slow.url}/v1/chat/completions", json=body, timeout=20) as stream:
        events = [line.removeprefix("data: ") for line in stream.iter_lines() if line.startswith("data: ")]
    assert json.loads(events[-2])["error"]["code"] == "timeout"
    assert events[-1] == "[DONE]"
    assert not any('"finish_reason":"' in event for event in events)


def test_a_grpc_deadline_ends_the_sequence(slow: HandServer) -> None:
    with grpc.insecure_channel(slow.grpc_address) as channel:
        calls = rpc.InferenceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            list(calls.Generate(pb.GenerateRequest(text="Hi", sampling=pb.Sampling(max_tokens=600)), timeout=0.5))
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_the_key_reaches_the_engine_as_an_opaque_tenant_with_its_weight() -> None:
    keys = {"first-key": 1.0, "second-key": 2.5}
    names = {key: KeyRing([key]).check(f"Bearer {key}") for key in keys}
    auth = {"key_weights": {names["second-key"]: 2.5}}
    with running(HandBackend(answer("Hi")), keys=KeyRing(keys), auth=auth) as server:
        for key in keys:
            headers = {"authorization": f"Bearer {key}"}
            httpx.post(f"{server.url}/v1/chat/completions", json={"messages": HI}, headers=headers, timeout=20)
            with grpc.insecure_channel(server.grpc_address) as channel:
                request = pb.GenerateRequest(text="Hi", sampling=pb.Sampling(priority=3))
                list(rpc.InferenceStub(channel).Generate(request, metadata=list(headers.items()), timeout=20))
    asked = [(one.tenant, one.weight, one.priority) for one in server.backend.requests]
    expected = [(names[key], weight, priority) for key, weight in keys.items() for priority in (0, 3)]
    assert asked == expected
    assert not any(key in str(asked) for key in keys)


def test_without_keys_everybody_is_one_tenant() -> None:
    with running(HandBackend(answer("Hi"))) as server:
        httpx.post(f"{server.url}/v1/chat/completions", json={"messages": HI, "priority": 7}, timeout=20)
        urgent = httpx.post(f"{server.url}/v1/chat/completions", json={"messages": HI, "priority": -1}, timeout=20)
    assert [(one.tenant, one.priority) for one in server.backend.requests] == [("", 7)]
    assert (urgent.status_code, urgent.json()["error"]["param"]) == (400, "priority")


def test_one_key_at_its_limit_is_refused_while_another_is_served() -> None:
    backend = HandBackend(answer("word " * 600), delay_s=0.1)
    limits = {"max_running_requests": 5}
    with running(backend, keys=KeyRing(["greedy", "other"]), limits=limits) as server:
        url, body = f"{server.url}/v1/chat/completions", {"messages": HI, "stream": True}
        greedy = {"authorization": "Bearer greedy"}
        with httpx.Client(timeout=20, headers=greedy) as client:
            held = [client.send(client.build_request("POST", url, json=body), stream=True) for _ in range(4)]
            refused = client.post(url, json=body)
            other = httpx.post(
                url, json={"messages": HI, "max_tokens": 2}, headers={"authorization": "Bearer other"}, timeout=20
            )
            for one in held:
                one.close()
        assert [one.status_code for one in held] == [200] * 4
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        assert other.status_code == 200
        assert eventually(lambda: is_free(server))


def test_a_full_engine_is_told_of_with_an_estimate() -> None:
    with running(HandBackend(error=QueueFull("no"))) as server:
        refused = httpx.post(f"{server.url}/v1/chat/completions", json={"messages": HI}, timeout=20)
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1
    assert "Try again in 1 s." in refused.json()["error"]["message"]
