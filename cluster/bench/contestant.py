"""Contestant: a program that is measured, in a process of its own, in whatever Python environment it lives."""

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import cluster
from cluster.bench.peers.talk import LoadOrder
from cluster.errors import PeerAbsent, PeerFailed

PeerName = Literal["llama.cpp", "transformers"]
OWN_NAME = "expertmesh"
ANSWER_TIMEOUT_S = 1800.0
"""A load reads gigabytes, and a slow peer may need minutes for a prompt."""
END_TIMEOUT_S = 30.0
_LAST_WORDS = 800
_MODULES = {OWN_NAME: "expertmesh", "llama.cpp": "llama_cpp", "transformers": "transformers"}
_HOW_TO_INSTALL: Mapping[str, str] = {
    "llama.cpp": "`pip install llama-cpp-python` compiles it for this processor and needs cmake and a C++ compiler",
    "transformers": "`pip install torch transformers accelerate`",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """Who takes part, and how it is loaded."""

    label: str
    """Its name in rows."""
    program: str
    """`expertmesh`, or a PeerName."""
    order: LoadOrder
    python: Path | None = None
    """The interpreter of its environment; by default this one."""


class Contestant:
    """A running program with its model loaded. A context manager: leaving it ends the process."""

    def __init__(self, entry: Entry) -> None:
        """Start the process and load; raises PeerAbsent or PeerFailed."""
        self.entry = entry
        self._scratch = tempfile.TemporaryDirectory(prefix="expertmesh-peer-")
        self._errors = (Path(self._scratch.name) / "stderr").open("w+b")
        self._process = self._start()
        try:
            loaded = self._ask(**entry.order.to_line())
        except BaseException:
            self.end()
            raise
        self.version: str = loaded["version"]
        self.load_s: float = loaded["load_s"]

    def __enter__(self) -> "Contestant":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def decode(self, num_sequences: int) -> list[float]:
        """Return the seconds of each timed step of `num_sequences` sequences decoded together."""
        return self._ask(do="decode", num_sequences=num_sequences)["durations_s"]

    def prefill(self, num_tokens: int) -> list[float]:
        """Return the seconds from a prompt to its first token, as a list of one."""
        return self._ask(do="prefill", num_tokens=num_tokens)["durations_s"]

    def peak_bytes(self) -> int:
        """Return the most memory that the process has held so far."""
        return self._ask(do="peak")["peak_bytes"]

    def end(self) -> None:
        """End the process, at the latest after `END_TIMEOUT_S`."""
        with suppress(BrokenPipeError):
            self._process.stdin.close() if self._process.stdin else None
        try:
            self._process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()
        self._errors.close()
        self._scratch.cleanup()

    def _start(self) -> "subprocess.Popen[bytes]":
        package = Path(cluster.__file__).parent
        python = self.entry.python or Path(sys.executable)
        home = package.parent
        if self.entry.program != OWN_NAME:
            # A peer's environment must find this one package, and none of the libraries that may lie beside it.
            home = Path(self._scratch.name)
            (home / package.name).symlink_to(package)
        module = f"cluster.bench.peers.{_MODULES[self.entry.program]}"
        try:
            return subprocess.Popen(
                [str(python), "-m", module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                cwd=home,
                env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
            )
        except OSError as error:
            self._errors.close()
            self._scratch.cleanup()
            raise PeerFailed(f"{python} cannot be started: {error.strerror}") from error

    def _ask(self, **order: Any) -> dict[str, Any]:
        """Send an order and return its answer; raises PeerAbsent or PeerFailed."""
        assert self._process.stdin, "the process has its orders from a pipe"
        with suppress(BrokenPipeError):  # what it died of stands on its standard error
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.flush()
        answer = json.loads(self._line() or self._epitaph(order["do"]))
        if "error" not in answer:
            return answer
        if answer["is_absent"]:
            raise PeerAbsent(self._how_to_install(answer["error"]))
        raise PeerFailed(f"{self.entry.label}, {order['do']}: {answer['error']}")

    def _line(self) -> bytes:
        """Return the next answer; empty if the process ended or the time is over."""
        assert self._process.stdout, "the process answers through a pipe"
        stop_s = time.monotonic() + ANSWER_TIMEOUT_S
        line = b""
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, stop_s - time.monotonic()))
            piece = os.read(self._process.stdout.fileno(), 1 << 16) if ready else b""
            if not piece:
                return b""
            line += piece
        return line

    def _epitaph(self, what: str) -> bytes:
        """Return what a process that gave no answer would have answered."""
        with suppress(subprocess.TimeoutExpired):  # its output may end a moment before it does
            self._process.wait(1.0)
        ended = self._process.returncode
        self._errors.seek(0)
        words = self._errors.read()[-_LAST_WORDS:].decode(errors="replace")
        if "ModuleNotFoundError" in words:
            return json.dumps({"error": words.strip().splitlines()[-1], "is_absent": True}).encode()
        state = f"took over {ANSWER_TIMEOUT_S:.0f} s" if ended is None else f"ended with {ended}"
        return json.dumps({"error": f"{state} at {what}: {words}", "is_absent": False}).encode()

    def _how_to_install(self, error: str) -> str:
        python = self.entry.python or Path(sys.executable)
        hint = _HOW_TO_INSTALL.get(self.entry.program, "")
        return (
            f"{self.entry.label} is not installed for {python} ({error}); {hint}. "
            "It may live in another environment: --peer-python PATH names its interpreter"
        )
