"""`serve` before anything starts, and the first question to a server that has just started."""

import json
import shlex
import socket
import time
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from cluster.errors import EngineStopped
from model.tokenizer import Tokenizer
from router.auth import KeyRing
from router.cli import app
from router.cli_serve import read_config
from router.config import Config, parse_config
from router.errors import ConfigInvalid, PlatformRefused
from router.first_question import FirstQuestion, local_url, next_steps
from router.platforms import default_preset, require_platform
from tests.e2e.served import served
from tests.router.fakes.hand_backend import HandBackend
from tests.router.fakes.hand_server import running

KEY = "key-of-the-test"
ANSWER = "<|channel|>analysis<|message|>Ones first.<|end|><|start|>assistant<|channel|>final<|message|>42<|return|>"
runner = CliRunner()


def _config(port: int, host: str = "127.0.0.1", keys: tuple[str, ...] = ()) -> Config:
    return parse_config({"edge": {"http": {"host": host, "port": port}, "auth": {"api_keys": list(keys)}}}, "test")


def _ask(config: Config, tmp_path: Path) -> str:
    """Return what a first question prints."""
    with (tmp_path / "terminal").open("w+", encoding="utf-8") as terminal:
        question = FirstQuestion(Console(file=terminal, highlight=False), config, "What is 17 + 25?")
        question.start()
        question.join(30)
        terminal.seek(0)
        return terminal.read()


def test_the_first_question_shows_reasoning_answer_and_what_to_type_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A proxy variable that points nowhere does no harm."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("all_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    backend = HandBackend(Tokenizer().encode_with_special(ANSWER))
    with running(backend, KeyRing([KEY])) as server:
        printed = _ask(_config(server.http_port, keys=(KEY,)), tmp_path)
    assert printed.startswith("\n> What is 17 + 25?\nOnes first.\n\n42\n")
    assert f"curl {server.url}/v1/chat/completions" in printed
    assert f"chat --url {server.url}" in printed
    assert "./run tests" in printed
    assert KEY not in printed
    assert backend.requests[0].params.temperature == 0


@pytest.mark.slow
def test_a_real_server_is_asked_its_first_question_and_ends_with_ctrl_c(monkeypatch: pytest.MonkeyPatch):
    """The embedded model in one process; `served` sends the signal and checks the exit code."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with served("tiny-standalone", "--ask", "What is 17 + 25?") as server:
        deadline_s = time.monotonic() + 60
        while "./run tests" not in (printed := server.log.read_text(encoding="utf-8")):
            assert time.monotonic() < deadline_s, printed
            time.sleep(0.2)
        question, steps = printed.index("> What is 17 + 25?"), printed.index("Next, in another terminal:")
        assert server.process.poll() is None
    assert printed[question:steps].count("\n\n") >= 1, "reasoning and answer stand apart"
    assert server.process.returncode == 0


def test_a_question_that_fails_is_one_line_and_no_end_of_the_server(tmp_path: Path):
    backend = HandBackend(error=EngineStopped("inside"))
    with running(backend) as server:
        printed = _ask(_config(server.http_port), tmp_path)
    assert printed.splitlines()[-1].startswith("the question was not answered: The engine stopped")
    assert "Next" not in printed


def test_what_is_typed_next_is_what_works():
    """The command is one shell command whose body is the request, quotes and all."""
    lines = list(next_steps("http://127.0.0.1:8000", "tiny", "What's 1 + 1?", has_key=True))
    (curl,) = [shlex.split(line) for line in lines if line.strip().startswith("curl")]
    assert curl[1] == "http://127.0.0.1:8000/v1/chat/completions"
    assert json.loads(curl[-1])["messages"] == [{"role": "user", "content": "What's 1 + 1?"}]
    assert "authorization: Bearer $EXPERTMESH_API_KEY" in curl
    python = [
        line.strip() for line in lines if line.startswith(("  client", "  import", "  from", "  messages", "  print"))
    ]
    compile("\n".join(python), "next steps", "exec")
    assert not [line for line in lines if "--url" in line]


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8001"),
        ("0.0.0.0", "http://127.0.0.1:8001"),
        ("::", "http://[::1]:8001"),
        ("::1", "http://[::1]:8001"),
        ("node.example", "http://node.example:8001"),
    ],
)
def test_a_server_is_reached_where_it_listens(host: str, url: str):
    assert local_url(_config(8001, host)) == url


def test_flags_and_set_reach_the_config_and_set_wins(tmp_path: Path):
    """The config is refused at its last field, so that nothing starts."""
    file = tmp_path / "mine.yaml"
    file.write_text("form: standalone\n", encoding="utf-8")
    result = runner.invoke(app, ["serve", str(file), "--max-num-seqs", "0"])
    assert result.exit_code == 2
    assert f"error: {file}: engine.max_running_sequences: " in result.stderr
    result = runner.invoke(app, ["serve", str(file), "--max-num-seqs", "0", "--set", "engine.max_running_sequences=-7"])
    assert "(value: -7)" in result.stderr


@pytest.mark.parametrize("source", ["openai/gpt-oss-20b", "."])
def test_a_model_in_place_of_a_config_gets_a_hint(source: str):
    with pytest.raises(ConfigInvalid, match=f"expertmesh serve --model {source}"):
        read_config(source, [])


def test_an_unknown_preset_is_told_with_those_that_exist():
    result = runner.invoke(app, ["serve", "tyny"])
    assert result.exit_code == 2
    assert "tiny-standalone" in result.stderr
    assert result.stderr.count("\n") == 1


def test_fewer_workers_than_copies_are_one_line_before_anything_starts():
    result = runner.invoke(app, ["serve", "tiny", "--set", "experts.num_workers=1"])
    assert result.exit_code == 2
    assert result.stderr.startswith("error: tiny: experts: copies is 2, each on a worker of its own")
    assert result.stderr.count("\n") == 1


def test_a_model_that_is_not_here_is_one_line_before_anything_starts(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    result = runner.invoke(app, ["serve", "tiny", "--model", "/no/such/place", "--port", "0", "--grpc-port", "0"])
    assert result.exit_code == 1
    assert result.stderr.startswith("error: /no/such/place: no such directory")
    assert result.stderr.count("\n") == 1


def test_a_taken_port_is_one_line_that_names_the_flag():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        for flag in ("--port", "--grpc-port"):
            free = "--grpc-port" if flag == "--port" else "--port"
            result = runner.invoke(app, ["serve", "tiny-standalone", flag, port, free, "0"])
            assert result.exit_code == 1
            assert result.stderr == f"error: port {port} is taken: choose another with {flag}\n"


def test_listening_to_the_network_without_a_key_is_refused():
    result = runner.invoke(app, ["serve", "tiny-standalone", "--host", "0.0.0.0", "--port", "0", "--grpc-port", "0"])
    assert result.exit_code == 1
    for way in ("an API key is required", "--api-key KEY", "EXPERTMESH_API_KEYS=KEY", "edge.auth.api_keys_file"):
        assert way in result.stderr


@pytest.mark.parametrize(
    ("preset", "system", "processor", "refusal"),
    [
        ("tiny", "Linux", "x86_64", None),
        ("tiny", "Linux", "aarch64", None),
        ("tiny-standalone", "Darwin", "arm64", None),
        ("tiny", "Darwin", "arm64", "macOS runs the standalone form only"),
        ("tiny-standalone", "Darwin", "x86_64", "Darwin on x86_64 is not supported"),
        ("tiny", "Windows", "AMD64", "Windows on AMD64 is not supported"),
        ("tiny", "Linux", "riscv64", "Linux on riscv64 is not supported"),
    ],
)
def test_platforms_are_taken_or_refused_by_name(preset: str, system: str, processor: str, refusal: str | None):
    config = read_config(preset, [])
    if refusal is None:
        require_platform(config, system, processor)
    else:
        with pytest.raises(PlatformRefused, match=refusal):
            require_platform(config, system, processor)


def test_the_default_preset_is_one_that_the_platform_runs():
    for system, processor in (("Linux", "x86_64"), ("Darwin", "arm64")):
        require_platform(read_config(default_preset(system), []), system, processor)
