"""Runs pip inside an environment with one line of progress; its own words go to a log."""

import os
import selectors
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from setup.pip_output import PipProgress, advice, last_words

TICK_S = 1.0
QUIET_LINE_S = 10.0
_FOREIGN = {"PYTHONPATH", "PYTHONHOME", "PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_REQUIRE_VIRTUALENV"}


class SetupFailed(Exception):
    """Set-up cannot go on; the message says why and what to do."""


def clean_variables() -> dict[str, str]:
    """Return the environment variables for a child, without those that would lead it to another Python's packages."""
    return {name: value for name, value in os.environ.items() if name not in _FOREIGN}


def run_pip(python: Path, log: Path, title: str, arguments: Sequence[str], *, num_expected: int | None = None) -> None:
    """Run pip with `arguments` under `title`; raises SetupFailed with pip's last words and what to do about them."""
    command = [str(python), "-m", "pip", *arguments, "--disable-pip-version-check", "--no-input"]
    with log.open("a", encoding="utf-8") as sink:
        sink.write(f"\n$ {' '.join(command)}\n")
        start = sink.tell()
        status = _follow(command, title, sink, PipProgress(num_expected))
    if status != 0:
        output = log.read_bytes()[start:].decode("utf-8", "replace")
        parts = [f"{title} failed:", last_words(output), advice(output, os.environ), f"All of pip's words are in {log}"]
        raise SetupFailed("\n".join(part for part in parts if part))


def _follow(command: Sequence[str], title: str, sink: IO[str], progress: PipProgress) -> int:
    """Run pip, copy its words to `sink`, and keep one line on the terminal; in a file, one line now and then."""
    is_terminal = sys.stdout.isatty()
    started_s = shown_s = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=clean_variables()) as process:
        for line in _lines(process):
            if line is not None:
                sink.write(line + "\n")
                progress.feed(line)
            now_s = time.monotonic()
            text = f"{title}: {progress.phrase} [{now_s - started_s:.0f} s]"
            if is_terminal:
                print(f"\r\033[2K{text[: shutil.get_terminal_size().columns - 1]}", end="", flush=True)
            elif now_s - shown_s > QUIET_LINE_S:
                shown_s = now_s
                print(text, flush=True)
    word = "done" if process.returncode == 0 else "failed"
    clear = "\r\033[2K" if is_terminal else ""
    print(f"{clear}{title}: {word} [{time.monotonic() - started_s:.0f} s]", flush=True)
    return process.returncode


def _lines(process: "subprocess.Popen[bytes]") -> Iterator[str | None]:
    """Yield the process's lines as they come, and None once a second while it says nothing."""
    assert process.stdout is not None, "the process was started with a pipe"
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            if not selector.select(timeout=TICK_S):
                yield None
                continue
            chunk = os.read(process.stdout.fileno(), 65536)
            if not chunk:
                break
            *whole, rest = (rest + chunk).split(b"\n")
            yield from (line.decode("utf-8", "replace") for line in whole)
    if rest:
        yield rest.decode("utf-8", "replace")
