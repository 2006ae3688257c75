"""`chat` as a person types it: commands, history, an answer that is stopped. In a real terminal, and as values."""

import fcntl
import os
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from model.tokenizer import Tokenizer
from router.chat_session import ChatSession, CommandRefused
from router.cli_client import ServerClient
from tests.router.fakes.hand_backend import HandBackend
from tests.router.fakes.hand_server import running
from tests.router.fakes.scripts import answer

DIM = "\x1b[2m"


@pytest.fixture
def backend() -> HandBackend:
    return HandBackend(answer("one two three", reasoning="Let me count."))


@pytest.fixture
def session(backend: HandBackend) -> Generator[ChatSession]:
    with running(backend) as server, ServerClient(server.url) as client:
        yield ChatSession(client, "hand", "Be brief.", {})


def say(session: ChatSession, line: str) -> str:
    content = "".join(delta.content for delta in session.ask(line))
    session.answered(content)
    return content


def prompts(backend: HandBackend) -> list[str]:
    return [Tokenizer().decode(request.prompt_ids) for request in backend.requests]


def test_a_conversation_goes_on_until_it_is_cleared(session: ChatSession, backend: HandBackend):
    assert say(session, "first") == "one two three"
    say(session, "second")
    assert session.command("/clear") == "The conversation is forgotten."
    say(session, "third")
    _, second, third = prompts(backend)
    assert "first" in second
    assert "one two three" in second
    assert "first" not in third
    assert "Be brief." in third


def test_effort_is_set_for_what_follows(session: ChatSession, backend: HandBackend):
    say(session, "a")
    assert session.command("/effort high") == "Reasoning effort: high."
    say(session, "b")
    assert session.command("/effort") == "Reasoning effort: high."
    assert ["Reasoning: high" in prompt for prompt in prompts(backend)] == [False, True]
    with pytest.raises(CommandRefused, match="low, medium or high, not 'maximal'"):
        session.command("/effort maximal")


@pytest.mark.parametrize("line", ["/quit", "/exit"])
def test_a_conversation_is_ended_by_its_name(session: ChatSession, line: str):
    assert session.command(line) == ""
    assert session.has_ended


def test_a_slash_that_is_no_command_is_told_and_two_are_a_message(session: ChatSession, backend: HandBackend):
    with pytest.raises(CommandRefused, match="there is no command /hlep; /help shows"):
        session.command("/hlep me")
    assert "/effort low|medium|high" in (session.command("/help") or "")
    assert session.command("//etc is a directory") is None
    say(session, "//etc is a directory")
    assert "<|message|>/etc is a directory<|end|>" in prompts(backend)[0]


def test_a_question_without_an_answer_is_taken_back(session: ChatSession, backend: HandBackend):
    session.ask("lost")
    session.answered("")
    say(session, "kept")
    assert "lost" not in prompts(backend)[0]


@dataclass
class Terminal:
    """A pseudo-terminal with a program in its foreground."""

    process: "subprocess.Popen[bytes]"
    master: int
    seen: str = ""
    _raw: bytes = field(default=b"")

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def wait_for(self, text: str, limit_s: float = 30.0) -> None:
        """Read until `text` has come since the last wait."""
        deadline_s = time.monotonic() + limit_s
        while text not in self.seen:
            assert time.monotonic() < deadline_s, f"waited for {text!r}, saw {self.seen!r}"
            if select.select([self.master], [], [], 0.1)[0]:
                self._raw += os.read(self.master, 65536)
                self.seen, self._raw = self.seen + self._raw.decode(errors="replace"), b""
        self.seen = self.seen.partition(text)[2]


@contextmanager
def terminal(*arguments: str) -> Generator[Terminal]:
    master, slave = os.openpty()

    def take_terminal() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)

    process = subprocess.Popen(
        [sys.executable, "-m", "router.cli", *arguments],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=os.environ | {"TERM": "xterm-256color", "NO_COLOR": ""},
        start_new_session=True,
        preexec_fn=take_terminal,  # noqa: PLW1509 - it makes two system calls
    )
    os.close(slave)
    try:
        yield Terminal(process, master)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)
        os.close(master)


def test_ctrl_c_stops_the_answer_and_not_the_program(backend: HandBackend):
    """The first answer is stopped in its reasoning, the second is read to its end, Ctrl-D ends."""
    backend.delay_s = 0.3
    with running(backend) as server, terminal("chat", "--url", server.url) as screen:
        screen.wait_for("Talking to hand at")
        screen.wait_for("> ")
        screen.type("stop me\n")
        screen.wait_for("Let")
        screen.type("\x03")
        screen.wait_for("(stopped)")
        deadline_s = time.monotonic() + 10
        while not backend.aborted:
            assert time.monotonic() < deadline_s, "the server was not told"
            time.sleep(0.05)
        backend.delay_s = 0.0
        screen.wait_for("> ")
        screen.type("go on\n")
        screen.wait_for(f"{DIM}Let")
        screen.wait_for("three")
        screen.wait_for("> ")
        screen.type("\x04")
        assert screen.process.wait(20) == 0
    assert "stop me" not in prompts(backend)[1]


def test_lines_of_before_come_back_and_ctrl_c_at_the_prompt_says_how_to_end(backend: HandBackend):
    with running(backend) as server, terminal("chat", "--url", server.url) as screen:
        screen.wait_for("> ")
        screen.type("once more\n")
        screen.wait_for("three")
        screen.wait_for("> ")
        screen.type("\x1b[A")
        screen.wait_for("once more")
        screen.type("\n")
        screen.wait_for("three")
        screen.wait_for("> ")
        screen.type("half a li")
        screen.wait_for("half a li")
        time.sleep(0.5)  # readline misses a signal that comes after it has written and before it waits for keys
        screen.type("\x03")
        screen.wait_for("/quit, or press Ctrl-D or Ctrl-C again")
        screen.wait_for("> ")
        screen.type("/quit\n")
        assert screen.process.wait(20) == 0
    assert ["once more" in prompt for prompt in prompts(backend)] == [True, True]


def test_an_error_at_one_message_does_not_end_the_conversation(backend: HandBackend):
    with running(backend) as server, terminal("chat", "--url", server.url) as screen:
        screen.wait_for("> ")
        screen.type("/hlep\n")
        screen.wait_for("there is no command /hlep")
        screen.wait_for("> ")
        screen.type("/exit\n")
        assert screen.process.wait(20) == 0
