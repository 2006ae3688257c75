"""`chat` and `status` against the real application, before a backend whose tokens are written down."""

import json
import socket
from collections.abc import Generator

import pytest
from typer.testing import CliRunner

from cluster.errors import EngineStopped
from model.tokenizer import Tokenizer
from router.auth import KeyRing
from router.backend import ComponentProgress, Readiness
from router.cli import app
from router.cli_client import ServerClient
from router.cli_errors import ServerUnreachable
from tests.router.fakes.hand_backend import HandBackend
from tests.router.fakes.hand_server import HandServer, running

KEY = "key-of-the-test"
ANSWER = (
    "<|channel|>analysis<|message|>Add the digits.<|end|><|start|>assistant<|channel|>final<|message|>[/b] 42<|return|>"
)
LOADING = Readiness(
    is_ready=False,
    stage="loading experts",
    progress=0.25,
    components=(ComponentProgress("worker-1", "loading", 0.25),),
)
runner = CliRunner()


@pytest.fixture
def backend() -> HandBackend:
    return HandBackend(Tokenizer().encode_with_special(ANSWER), tokens_per_event=3)


@pytest.fixture
def server(backend: HandBackend) -> Generator[HandServer]:
    with running(backend, KeyRing([KEY])) as live:
        yield live


@pytest.mark.parametrize("tokens_per_event", [1, 100])
def test_chat_prints_reasoning_then_the_answer(server: HandServer, backend: HandBackend, tokens_per_event: int):
    """Square brackets in an answer are text, not markup, in one piece or in many."""
    backend.tokens_per_event = tokens_per_event
    result = runner.invoke(app, ["chat", "--url", server.url, "--api-key", KEY], input="What is 17 + 25?\n")
    assert result.output == "Add the digits.\n\n[/b] 42\n"
    assert result.exit_code == 0


def test_chat_hands_the_conversation_back_with_every_question(server: HandServer, backend: HandBackend):
    result = runner.invoke(
        app,
        ["chat", "--url", server.url, "--system", "Be brief.", "--effort", "low", "--seed", "7"],
        input="first\n\nsecond\n/quit\nnot read\n",
        env={"EXPERTMESH_API_KEY": KEY},
    )
    assert result.exit_code == 0
    first, second = (Tokenizer().decode(request.prompt_ids) for request in backend.requests)
    assert "Be brief." in first
    assert "Reasoning: low" in first
    assert first.rpartition("<|start|>")[0] in second
    assert "[/b] 42" in second
    assert "second" in second
    assert [request.params.seed for request in backend.requests] == [7, 7]


def test_an_answer_that_was_cut_says_so(server: HandServer, backend: HandBackend):
    backend.default = backend.default[:-2]
    result = runner.invoke(app, ["chat", "--url", server.url, "--api-key", KEY], input="hello\n")
    assert "cut off" in result.output


def test_an_error_inside_the_stream_is_one_line(server: HandServer, backend: HandBackend):
    backend.error, backend.fails_after = EngineStopped("at 10.0.0.1"), 2
    result = runner.invoke(app, ["chat", "--url", server.url, "--api-key", KEY], input="hello\n")
    assert result.exit_code == 1
    assert result.stderr == "error: The engine stopped while the request ran. Try again.\n"


def test_a_missing_key_says_which_option_has_it(server: HandServer):
    result = runner.invoke(app, ["chat", "--url", server.url], input="hello\n")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: An API key is needed.")
    assert "--api-key" in result.stderr


def test_status_of_a_ready_server(server: HandServer):
    result = runner.invoke(app, ["status", "--url", server.url, "--api-key", KEY])
    assert result.exit_code == 0
    for text in ("hand", "ready", "by hand", "KV blocks used", "3"):
        assert text in result.output


def test_status_for_programs(server: HandServer):
    result = runner.invoke(app, ["status", "--url", f"{server.url}/v1/", "--api-key", KEY, "--json"])
    document = json.loads(result.output)
    assert document["ready"]["ready"] is True
    assert document["metrics"]['expertmesh_engine_kv_blocks{state="free"}'] == 4
    assert document["metrics"]["expertmesh_requests_running"] == 0


def test_status_without_a_key_shows_readiness_alone(server: HandServer):
    result = runner.invoke(app, ["status", "--url", server.url])
    assert result.exit_code == 0
    assert "need a key" in result.output
    document = json.loads(runner.invoke(app, ["status", "--url", server.url, "--json"]).output)
    assert document["metrics"] is None


def test_status_of_a_loading_server_is_a_failure_that_says_how_far_it_is(server: HandServer, backend: HandBackend):
    backend.readiness = LOADING
    result = runner.invoke(app, ["status", "--url", server.url, "--api-key", KEY])
    assert result.exit_code == 1
    assert "loading experts" in result.output
    assert "25% of all" in result.output
    assert "worker-1" in result.output


def test_nobody_at_the_address_is_one_line():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        for command in ("status", "chat"):
            result = runner.invoke(app, [command, "--url", url], input="hello\n")
            assert result.exit_code == 1
            assert result.stderr.startswith(f"error: nothing answers at {url}")
            assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("url", ["http://", "http://[::1", "nonsense", "ftp://127.0.0.1:1"])
def test_what_is_no_address_is_refused(url: str):
    result = runner.invoke(app, ["status", "--url", url])
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1


def test_this_machine_is_not_asked_through_a_proxy(server: HandServer, monkeypatch: pytest.MonkeyPatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert runner.invoke(app, ["status", "--url", server.url]).exit_code == 0
    with ServerClient("http://server.invalid:8000") as client, pytest.raises(ServerUnreachable):
        client.ready()


def test_another_web_server_is_told_apart():
    """A server that is none of ours answers 200 with a page."""
    import http.server
    import threading

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html></html>")

        def log_message(self, format: str, *args: object) -> None: ...  # noqa: A002

    with http.server.HTTPServer(("127.0.0.1", 0), Page) as other:
        thread = threading.Thread(target=other.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        result = runner.invoke(app, ["status", "--url", f"http://127.0.0.1:{other.server_address[1]}"])
        other.shutdown()
        thread.join()
    assert result.exit_code == 1
    assert "not as an Expertmesh server does" in result.stderr
