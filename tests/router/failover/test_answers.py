"""Answers put together from what a server really sends over HTTP: whole, in pieces, cut off."""

import json
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from router.failover.answers import Answer, ask_all
from router.failover.questions import Question, questions

STREAM = Question("stream", "/v1/completions", {"stream": True})


@contextmanager
def serving(said: bytes, status: int = 200) -> Generator[str]:
    """Serve `said` to everybody; yield the URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *unused: object) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def piece(text: str, finish_reason: str | None = None) -> bytes:
    choice = {"index": 0, "text": text, "finish_reason": finish_reason, "logprobs": {"tokens": [text]}}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


def asked(said: bytes, status: int = 200) -> Answer:
    with serving(said, status) as url:
        (answer,) = ask_all(url, "tiny", [STREAM])
    return answer


def test_pieces_are_joined_however_they_are_cut() -> None:
    answer = asked(piece("a") + piece("b", "stop") + b"data: [DONE]\n\n")
    assert answer.error is None
    assert (answer.choices[0]["text"], answer.choices[0]["finish_reason"]) == ("ab", "stop")
    assert answer.choices[0]["logprobs"]["tokens"] == ["a", "b"]
    assert len(answer.arrivals_s) == 2


@pytest.mark.parametrize(
    ("said", "status", "error"),
    [
        (piece("a"), 200, "broke off"),
        (piece("a") + b'data: {"error": {"message": "engine lost"}}\n\n', 200, "engine lost"),
        (b"busy", 503, "503: busy"),
        (b"data: [DONE]\n\n", 200, "without a choice"),
    ],
    ids=["cut off", "error in the stream", "refused", "empty"],
)
def test_what_a_client_would_report_is_an_error(said: bytes, status: int, error: str) -> None:
    assert error in str(asked(said, status).error)


def test_there_are_at_least_sixteen_questions_each_with_a_name_and_a_seed_of_its_own_kind() -> None:
    asked = questions()
    assert len({question.name for question in asked}) == len(asked) >= 16
    assert all("seed" in question.body for question in asked)
