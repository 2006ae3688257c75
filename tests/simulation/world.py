"""Time, chance and what is yet to happen: the ground that a simulated cluster stands on. One seed is one world."""

import heapq
import itertools
import random
from collections.abc import Callable


class World:
    """A clock that jumps from event to event, and every decision that chance makes.

    `check` is called after each event. It is a `cluster.clock.Clock` as far as state machines use one.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.chance = random.Random(seed)
        self.checks: list[Callable[[], None]] = []
        self.num_events = 0
        self.trace: list[str] = []
        """What happened that was out of the ordinary, for whoever replays a seed."""
        self._now_s = 0.0
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def now_s(self) -> float:
        """Return the seconds since the world began."""
        return self._now_s

    async def sleep(self, seconds: float) -> None:
        """Refuse: nothing in a simulated world waits."""
        raise AssertionError(f"a state machine wants to sleep {seconds} s")

    def later(self, delay_s: float, happen: Callable[[], None]) -> None:
        """Let something happen after a while; what is due at the same time happens in the order of asking."""
        heapq.heappush(self._queue, (self._now_s + delay_s, next(self._order), happen))

    def soon(self, longest_s: float, happen: Callable[[], None]) -> None:
        """Let something happen after a while that chance chooses."""
        self.later(self.chance.random() * longest_s, happen)

    def note(self, what: str) -> None:
        """Write a line of the trace."""
        self.trace.append(f"{self._now_s:9.3f} s  {what}")

    def run_until(self, is_done: Callable[[], bool], longest_s: float) -> None:
        """Let events happen until `is_done`; fail after `longest_s`, or when nothing is left to happen."""
        deadline_s = self._now_s + longest_s
        while not is_done():
            assert self._queue, "nothing is left to happen"
            due_s, _, happen = heapq.heappop(self._queue)
            assert due_s <= deadline_s, f"not done after {longest_s} s"
            self._now_s = max(self._now_s, due_s)
            self.num_events += 1
            happen()
            for check in self.checks:
                check()
