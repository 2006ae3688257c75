"""How a measured process is spoken to: one order a line on standard input, one answer a line on standard output.

{"do": "load", "path": …}    -> {"version": …, "load_s": …}
{"do": "decode", …}          -> {"durations_s": […]}
{"do": "prefill", …}         -> {"durations_s": […]}
{"do": "peak"}               -> {"peak_bytes": …}
an error                     -> {"error": …, "is_absent": true where the program is not installed}

Standard library only. What libraries print goes to standard error, so that it cannot break a line.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

WARM_UP_STEPS = 3
"""Decode steps before those that are timed, in every program."""
Answer = dict[str, Any]


@dataclass(frozen=True, slots=True)
class LoadOrder:
    """What a program is to load, and what it may take."""

    path: str
    """The model's file or directory."""
    num_threads: int
    max_sequences: int
    context_tokens: int
    """Of each sequence."""
    num_steps: int
    """Decode steps that are timed in a turn."""
    num_prompt: int
    """Prompt tokens of each decoding sequence."""
    options: dict[str, str] = field(default_factory=dict[str, str])
    """What only one of the programs knows, by name."""

    def to_line(self) -> Answer:
        """Return the order as it is sent."""
        return {"do": "load", **asdict(self)}


class Runner(Protocol):
    """A loaded model that can be timed. All sequences are new in each turn; each step takes the best token."""

    version: str

    def decode(self, num_sequences: int) -> list[float]:
        """Return the seconds of each timed step, while `num_sequences` sequences run and nothing else happens."""
        ...

    def prefill(self, num_tokens: int) -> float:
        """Return the seconds from a prompt to its first token."""
        ...


def serve(load: Callable[[LoadOrder], Runner]) -> None:
    """Carry out orders until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    desk = _Desk(load)
    for line in sys.stdin:
        answers.write(json.dumps(desk.answer(json.loads(line))) + "\n")
        answers.flush()


def peak_bytes() -> int:
    """Return the most memory that this process has held at a time, what it maps of files included."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # The system's own record may begin with the memory of the process that started this one.
    lines = status.read_text(encoding="utf-8").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


class _Desk:
    """Answers orders, one after the other."""

    def __init__(self, load: Callable[[LoadOrder], Runner]) -> None:
        self._load = load
        self._runner: Runner | None = None

    def answer(self, order: Answer) -> Answer:
        try:
            return self._carry_out(order)
        except ModuleNotFoundError as error:
            return {"error": str(error), "is_absent": True}
        except Exception as error:  # noqa: BLE001 - whatever a program raises is the answer
            return {"error": f"{type(error).__name__}: {error}", "is_absent": False}

    def _carry_out(self, order: Answer) -> Answer:
        what = order.pop("do")
        if what == "load":
            started_s = time.perf_counter()
            self._runner = self._load(LoadOrder(**order))
            return {"version": self._runner.version, "load_s": time.perf_counter() - started_s}
        if what == "peak":
            return {"peak_bytes": peak_bytes()}
        assert self._runner is not None, f"{what} before load"
        if what == "decode":
            return {"durations_s": self._runner.decode(order["num_sequences"])}
        return {"durations_s": [self._runner.prefill(order["num_tokens"])]}
