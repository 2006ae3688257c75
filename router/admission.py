"""Admission: how many requests an edge replica holds at once. Others are told at once, and when to try again."""

import math
from collections import Counter, deque

from cluster.clock import Clock, MonotonicClock
from cluster.engine.fair_shares import may_hold_one_more
from router.errors import RETRY_AFTER_S, Overloaded

MAX_RETRY_AFTER_S = 60
_NUM_REMEMBERED = 64
"""Ends of requests that the estimate goes by, and refusals that it remembers."""


class WaitEstimate:
    """Tells from the last requests' ends when a place will be free for one more. One after the other: whoever is
    refused now comes after those who were refused before and have been told a later time.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ends_s: deque[float] = deque(maxlen=_NUM_REMEMBERED)
        self._told_s: deque[float] = deque(maxlen=_NUM_REMEMBERED)

    def note_end(self) -> None:
        """Take note that a place became free."""
        self._ends_s.append(self._clock.now_s())

    def retry_after_s(self) -> int:
        """Return the seconds, at least 1, after which one more client who is refused now is to try again."""
        now_s = self._clock.now_s()
        while self._told_s and self._told_s[0] <= now_s:
            self._told_s.popleft()
        if len(self._ends_s) < 2:
            return RETRY_AFTER_S
        between_s = (now_s - self._ends_s[0]) / (len(self._ends_s) - 1)  # silence since the last end counts
        wait_s = min(MAX_RETRY_AFTER_S, max(1, math.ceil(between_s * (len(self._told_s) + 1))))
        self._told_s.append(now_s + wait_s)
        return wait_s


class Ticket:
    """A place among the running requests, until it is given back; giving it back twice is once."""

    def __init__(self, admission: "Admission", tenant: str) -> None:
        self._admission: Admission | None = admission
        self._tenant = tenant

    def release(self) -> None:
        """Give the place back."""
        if self._admission is not None:
            self._admission.release(self._tenant)
            self._admission = None


class Admission:
    """Counts running requests on one event loop."""

    def __init__(self, max_running: int, clock: Clock | None = None) -> None:
        """Admit at most `max_running` requests at a time."""
        self.max_running = max_running
        self.num_running = 0
        self._num_by_tenant: Counter[str] = Counter()
        self._estimate = WaitEstimate(clock or MonotonicClock())

    def admit(self, tenant: str = "") -> Ticket:
        """Return a place; raises Overloaded if there is none, or none for a tenant that holds most of them.

        The tenant is empty where everybody is the same.
        """
        num_free = self.max_running - self.num_running
        if num_free <= 0:
            raise self.overloaded(f"This server runs {self.max_running} requests at once, and all places are taken.")
        num_own = self._num_by_tenant[tenant]
        if tenant and not may_hold_one_more(num_own, num_free):
            raise self.overloaded(f"{num_own} requests with this key run here; the last places are for others.")
        self.num_running += 1
        self._num_by_tenant[tenant] += 1
        return Ticket(self, tenant)

    def release(self, tenant: str) -> None:
        """Take a place back."""
        self.num_running -= 1
        self._num_by_tenant[tenant] -= 1
        if not self._num_by_tenant[tenant]:
            del self._num_by_tenant[tenant]
        self._estimate.note_end()

    def overloaded(self, why: str) -> Overloaded:
        """Return the answer to a client for whom there is no room now."""
        wait_s = self._estimate.retry_after_s()
        return Overloaded(f"{why} Try again in {wait_s} s.", retry_after_s=wait_s)
