"""Trials: a grammar is compiled in a process of its own first, which may take too long, grow too large, or crash.

What passes there is compiled here, in the same way; what does not costs a process of thirty megabytes, which is made
anew. A trial ends with the process that asks it.
"""

import json
import queue
import select
import subprocess
import sys
import time
import weakref
from pathlib import Path
from typing import Any

from cluster.errors import GrammarRefused

_PROGRAM = Path(__file__).with_name("trial_process.py")
_START_S = 20.0
"""More time for the first grammar of a process: it has to start."""


class Trials:
    """Trial processes, as many as there are threads that ask at the same time."""

    def __init__(self, timeout_s: float) -> None:
        """Give each grammar `timeout_s`; the first process starts with the first grammar."""
        self._timeout_s = timeout_s
        self._idle: queue.LifoQueue[_Trial] = queue.LifoQueue()
        weakref.finalize(self, _end_all, self._idle)  # they end with their owner, closed or not

    def complaint(self, grammar: str) -> str | None:
        """Return what is wrong with a grammar of llguidance, or None.

        Raises GrammarRefused, its message without a place, if the trial takes too long or ends.
        """
        trial = self._take()
        try:
            answer = trial.ask(grammar, self._timeout_s)
        except BaseException:
            trial.end()
            raise
        self._idle.put(trial)
        return answer

    def close(self) -> None:
        """End the processes that wait for a grammar."""
        _end_all(self._idle)

    def _take(self) -> "_Trial":
        try:
            return self._idle.get_nowait()
        except queue.Empty:
            return _Trial()


def _end_all(trials: "queue.LifoQueue[_Trial]") -> None:
    while not trials.empty():
        trials.get_nowait().end()


class _Trial:
    """One process."""

    def __init__(self) -> None:
        # Unbuffered, so that what `select` sees is all there is; an answer is one short line.
        self._process = subprocess.Popen(
            [sys.executable, str(_PROGRAM)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        self._grace_s = _START_S

    def ask(self, grammar: str, timeout_s: float) -> str | None:
        deadline_s = time.monotonic() + timeout_s + self._grace_s
        stdin: Any = self._process.stdin
        try:
            stdin.write(json.dumps(grammar).encode() + b"\n")
            line = self._line(deadline_s)
        except OSError:
            line = b""
        if line is None:
            raise GrammarRefused(f"it was not compiled within {timeout_s:g} s (compile_timeout_s)")
        if not line:
            raise GrammarRefused("it takes too much memory, or is nested too deep")
        self._grace_s = 0.0
        return json.loads(line)

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _line(self, deadline_s: float) -> bytes | None:
        """Return the answer, nothing if the process ended, None if the time is over."""
        stdout: Any = self._process.stdout
        line = b""
        while not line.endswith(b"\n"):
            is_there, _, _ = select.select([stdout], [], [], max(0.0, deadline_s - time.monotonic()))
            if not is_there:
                return None
            piece = stdout.read(65_536)
            if not piece:
                return b""
            line += piece
        return line
