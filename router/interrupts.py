"""Interrupts: what Ctrl-C and SIGTERM do while `expertmesh serve` runs.

The first says at once that the server stops, and unwinds everything in order. The second ends the process on the spot;
what runs beside it notices: an own Ray's warden sweeps, a joined cluster's lease ends.

Python runs its signal handlers between two instructions of the main thread, which may be deep in a library for seconds.
So a thread reads the bytes that the interpreter writes for each signal the moment it comes (`signal.set_wakeup_fd`).
"""

import logging
import os
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import NoReturn

from rich.console import Console

INTERRUPTED = 130
_ASKED = {signal.SIGINT, signal.SIGTERM}


class Interrupts:
    """A context manager. Outside of the main thread it does nothing: signals belong to somebody else there."""

    def __init__(self, console: Console, afterwards: str = "") -> None:
        """Tell on `console`; `afterwards` says what a hard end leaves to others."""
        self._console = console
        self._afterwards = afterwards
        self._num_asked = 0
        self._pipe: tuple[int, int] | None = None
        self._previous_fd = -1
        self._thread = threading.Thread(target=self._listen, name="interrupts", daemon=True)

    def __enter__(self) -> "Interrupts":
        """Begin to listen."""
        if threading.current_thread() is threading.main_thread():
            self._pipe = os.pipe()
            os.set_blocking(self._pipe[1], False)
            self._previous_fd = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
            self.take_sigterm()
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave signals as they were; once the end was asked for, the few moments until it heed no more of them."""
        if self._pipe is None:
            return
        if self._num_asked:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.set_wakeup_fd(self._previous_fd)
        os.close(self._pipe[1])
        self._thread.join()
        os.close(self._pipe[0])

    def take_sigterm(self) -> None:
        """Let SIGTERM end this process as Ctrl-C does; again after a library has put its own handler there."""
        if self._pipe is not None:
            signal.signal(signal.SIGTERM, _interrupt)

    def check(self) -> None:
        """Raise KeyboardInterrupt if the end was asked for: a library may have swallowed the one that was raised."""
        if self._num_asked:
            raise KeyboardInterrupt

    def _listen(self) -> None:
        assert self._pipe is not None, "started by __enter__, which makes the pipe"
        while numbers := os.read(self._pipe[0], 64):
            for number in numbers:
                if number in _ASKED:
                    self._take()

    def _take(self) -> None:
        self._num_asked += 1
        if self._num_asked == 1:
            self._console.print("[bold]Stopping. Ctrl-C again ends it at once.[/bold]")
            return
        self._console.show_cursor()
        self._console.print(f"[bold]Ended at once. {self._afterwards}".rstrip())
        end_process()


def end_process() -> NoReturn:
    """End on the spot: threads that compute in a library's code must not see the interpreter taken down around them."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(INTERRUPTED)


def end_children() -> None:
    """Ask every process that this one started, and theirs, to end: a compiler would go on for nobody.

    This process ends too, so what fails here for want of them is logged no more.
    """
    logging.disable()
    found = _children(os.getpid())
    for child in found:  # theirs are added while they go by, before any of them ends and hides them
        found += _children(child)
    for child in found:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGTERM)


def _children(process: int) -> list[int]:
    """Return the ids of a process's children; none where the system does not tell by /proc."""
    found: list[int] = []
    for listed in Path(f"/proc/{process}/task").glob("*/children"):
        with suppress(OSError):
            found += [int(word) for word in listed.read_text(encoding="ascii").split()]
    return found


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
