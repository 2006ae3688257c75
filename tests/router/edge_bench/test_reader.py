"""The client of the benchmark: every event with the time of the piece that completed it, however the wire cuts it."""

import json
import socket
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager

import pytest

from router.edge_bench.reader import Task, read_all

HEAD = b"HTTP/1.1 200 OK\r\nx-seed: 0\r\ntransfer-encoding: chunked\r\n\r\n"
PAUSE_S = 0.05


def event(text: str) -> bytes:
    return b"data: " + json.dumps({"choices": [{"index": 0, "delta": {"content": text}}]}).encode() + b"\n\n"


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}".encode() + b"\r\n" + data + b"\r\n"


@contextmanager
def answering(*answers: list[bytes]) -> Generator[Task]:
    """Answer the requests of one connection with pieces, a pause before each; then close it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                for pieces in answers:
                    connection.recv(1 << 16)
                    for piece in pieces:
                        time.sleep(PAUSE_S)
                        connection.sendall(piece)

        thread = threading.Thread(target=serve)
        thread.start()
        yield Task("127.0.0.1", listener.getsockname()[1], "/", [["{}"] * len(answers)])
        thread.join(10)


def test_each_event_has_the_time_of_the_piece_that_completes_it() -> None:
    """Two events in one chunk, one over two chunks whose second is cut by the wire too, and comments between."""
    first, second, third = event("a"), event("b\n\n0\r\n\r\n"), event("c")
    chunks = chunk(first + b": keep-alive\n\n" + second), chunk(third[:20]), chunk(third[20:] + b"data: [DONE]\n\n")
    pieces = [HEAD, chunks[0], chunks[1], chunks[2][:9], chunks[2][9:] + b"0\r\n\r\n"]
    with answering(pieces) as task:
        report = read_all(task)
    ((answer,),) = report.answers
    assert answer.text == "ab\n\n0\r\n\r\nc"
    waits = [at_s - answer.sent_s for at_s in answer.arrivals_s]
    assert waits[0] == waits[1] < waits[2]
    assert waits[0] >= 2 * PAUSE_S
    assert waits[2] - waits[1] >= 2.5 * PAUSE_S
    assert report.cpu_s >= 0


def test_the_next_request_goes_out_when_the_answer_is_whole() -> None:
    pieces = [HEAD + chunk(event("x") + b"data: [DONE]\n\n"), b"0\r\n\r\n"]
    with answering(pieces, pieces) as task:
        ((one, other),) = read_all(task).answers
    assert (one.text, other.text) == ("x", "x")
    assert one.arrivals_s[-1] < other.sent_s < other.arrivals_s[0]


REFUSED = (
    b"HTTP/1.1 429 Too Many Requests\r\ntransfer-encoding: chunked\r\n\r\n" + chunk(b'{"error": 1}') + b"0\r\n\r\n"
)
FAILED = HEAD + chunk(b'data: {"error": {"message": "lost"}}\n\ndata: [DONE]\n\n') + b"0\r\n\r\n"


@pytest.mark.parametrize(
    ("pieces", "error", "words"),
    [
        ([REFUSED], ValueError, "429"),
        ([FAILED], ValueError, "lost"),
        ([HEAD, chunk(event("x"))], ConnectionError, "closed"),
    ],
)
def test_an_answer_that_is_none_is_told(pieces: list[bytes], error: type[Exception], words: str) -> None:
    with answering(pieces) as task, pytest.raises(error, match=words):
        read_all(task)
