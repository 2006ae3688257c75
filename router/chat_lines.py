"""Where a conversation's lines come from: a terminal with history and line editing, or a pipe."""

import importlib
import sys
from collections.abc import Callable
from contextlib import suppress

from rich.console import Console

PROMPT = "> "
_BOLD, _PLAIN = "\001\033[1m\002", "\001\033[0m\002"
"""Between these marks readline does not count characters as places on the line."""


def line_reader(console: Console) -> Callable[[], str | None]:
    """Return what gives the next line without its end, None at the end of input."""
    if not sys.stdin.isatty():
        return _piped_line
    with suppress(ImportError):
        importlib.import_module("readline")  # input() edits lines and keeps their history once this is there
    prompt = f"{_BOLD}{PROMPT}{_PLAIN}" if console.color_system else PROMPT
    return lambda: _typed_line(prompt)


def _piped_line() -> str | None:
    line = sys.stdin.readline()
    return line.strip() if line else None


def _typed_line(prompt: str) -> str | None:
    try:
        return input(prompt).strip()
    except EOFError:
        return None
