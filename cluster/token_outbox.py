"""TokenOutbox: the bounded queue between an engine's steps and one edge's stream.

The engine never waits: an outbox that is full ends instead, and its edge has to start over.
"""

import queue

from cluster.engine.sequence import TokenEvent

Step = list[TokenEvent]


class TokenOutbox:
    """Steps on their way to one attachment of an edge. Filled and emptied by different threads."""

    def __init__(self, max_steps: int, max_merged_steps: int) -> None:
        """Hold at most `max_steps`, and hand a late reader up to `max_merged_steps` at once."""
        self._steps: queue.Queue[Step | None] = queue.Queue(max_steps)
        self._max_merged_steps = max_merged_steps
        self.is_over = False
        """Nothing more will come out: the outbox was ended, or has overflown."""
        self.has_overflown = False

    def put(self, step: Step) -> None:
        """Queue a step; without room for it, the outbox is over."""
        try:
            self._steps.put_nowait(step)
        except queue.Full:
            self.has_overflown = True
            self.is_over = True

    def end(self) -> None:
        """Let nothing more out, and wake the reader."""
        self.is_over = True
        try:
            self._steps.put_nowait(None)
        except queue.Full:
            return  # a reader of a full queue does not sleep

    def take(self, timeout_s: float) -> Step:
        """Return the steps that wait, joined; an empty list if none came within the timeout or the outbox is over."""
        joined = self._next(timeout_s)
        for _ in range(self._max_merged_steps - 1):
            step = self._next(0.0)
            if not step:
                break
            joined.extend(step)
        return [] if self.is_over else joined

    def _next(self, timeout_s: float) -> Step:
        try:
            return self._steps.get(timeout=timeout_s) or []
        except queue.Empty:
            return []
