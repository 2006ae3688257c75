"""Streams over real connections: keep-alives, clients that leave or do not read, the end of a stream."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.router.fakes.hand_backend import HandBackend
from tests.router.fakes.hand_server import HandServer, running
from tests.router.fakes.scripts import answer, call, turn

HI = [{"role": "user", "content": "Hi"}]


def wait_until(is_true: Callable[[], bool], timeout_s: float = 10.0) -> bool:
    """Return whether `is_true` came to hold."""
    deadline_s = time.monotonic() + timeout_s
    while not is_true() and time.monotonic() < deadline_s:
        time.sleep(0.01)
    return is_true()


def is_quiet(server: HandServer) -> bool:
    """Return whether nothing runs any more."""
    return server.backend.num_open == 0 and server.service._admission.num_running == 0


@pytest.fixture(scope="module")
def slow() -> Iterator[HandServer]:
    """A server whose tokens take 50 ms each, and whose patience is short."""
    backend = HandBackend(answer("word " * 200), delay_s=0.05)
    with running(backend, http={"port": 0, "keep_alive_s": 0.1, "stalled_client_s": 0.5}) as server:
        yield server
        assert is_quiet(server)


def test_a_stream_ends_with_done_and_every_event_is_json() -> None:
    with running(HandBackend(call("f", '{"a": "😀"}'))) as server:
        body = {"messages": HI, "stream": True, "tools": [{"type": "function", "function": {"name": "f"}}]}
        response = httpx.post(f"{server.url}/v1/chat/completions", json=body)

    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-store"
    events = response.text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    chunks: list[dict[str, Any]] = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks][-1] == "tool_calls"
    assert len({chunk["id"] for chunk in chunks}) == 1


def test_silence_is_filled_with_comments() -> None:
    backend = HandBackend(turn("<|channel|>final<|message|>A<|return|>"), delay_s=0.3)
    with running(backend, http={"port": 0, "keep_alive_s": 0.1}) as server:
        response = httpx.post(f"{server.url}/v1/chat/completions", json={"messages": HI, "stream": True}, timeout=60)

    assert response.text.count(": keep-alive\n\n") >= 4
    assert response.text.endswith("data: [DONE]\n\n")


def test_a_stream_whose_first_token_takes_long_begins_before_it() -> None:
    """Headers come after `keep_alive_s` at the latest, so that no proxy gives up."""
    backend = HandBackend(answer("A"), delay_s=1.0)
    with running(backend, http={"port": 0, "keep_alive_s": 0.1}) as server:
        body = {"messages": HI, "stream": True}
        start_s = time.monotonic()
        with httpx.stream("POST", f"{server.url}/v1/chat/completions", json=body, timeout=60) as response:
            headers_s = time.monotonic() - start_s

    assert response.status_code == 200
    assert headers_s < 0.9


def test_a_client_that_leaves_a_stream_aborts_its_sequence(slow: HandServer) -> None:
    num_aborted = len(slow.backend.aborted)
    body = {"messages": HI, "stream": True, "n": 2}
    with httpx.stream("POST", f"{slow.url}/v1/chat/completions", json=body, timeout=60) as response:
        next(response.iter_lines())

    assert wait_until(lambda: len(slow.backend.aborted) == num_aborted + 2)
    assert wait_until(lambda: is_quiet(slow))


@pytest.mark.parametrize("is_streaming", [False, True])
def test_a_client_that_leaves_before_any_answer_aborts_its_sequence(slow: HandServer, is_streaming: bool) -> None:
    num_aborted = len(slow.backend.aborted)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{slow.url}/v1/chat/completions",
            json={"messages": HI, "stream": is_streaming, "n": 1},
            timeout=httpx.Timeout(5, read=0.03 if is_streaming else 0.3),
        )

    assert wait_until(lambda: len(slow.backend.aborted) == num_aborted + 1)
    assert wait_until(lambda: is_quiet(slow))


def test_a_client_that_does_not_read_is_given_up() -> None:
    """Some 25 MB of logprobs fill every buffer on the way; the stalled client holds nothing for ever."""
    body = json.dumps({"messages": HI, "stream": True, "n": 4, "logprobs": True, "top_logprobs": 20}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n"
    with running(HandBackend(answer("word " * 3000)), http={"port": 0, "stalled_client_s": 0.5}) as server:
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", server.http_port))
            connection.sendall(head.encode() + body)
            assert wait_until(lambda: server.backend.num_open == 4)

            assert wait_until(lambda: is_quiet(server))
        assert len(server.backend.aborted) == 4


def test_a_slow_header_or_body_holds_up_nobody(slow: HandServer) -> None:
    with socket.create_connection(("127.0.0.1", slow.http_port)) as connection:
        connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{")

        assert httpx.get(f"{slow.url}/health", timeout=5).status_code == 200
        connection.settimeout(10)
        assert connection.recv(12) == b"HTTP/1.1 408"


def test_giant_headers_end_the_connection(slow: HandServer) -> None:
    """More than the limit never reaches the application: the server stops reading."""
    with socket.create_connection(("127.0.0.1", slow.http_port)) as connection:
        connection.settimeout(10)
        connection.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\nx: ")
        sent = 0
        try:
            while sent < 64_000_000:
                connection.sendall(b"x" * 65_536)
                sent += 65_536
            answered = connection.recv(100)
        except OSError:
            answered = b""

    assert sent < 64_000_000 or b" 4" in answered
    assert httpx.get(f"{slow.url}/health", timeout=5).status_code == 200
