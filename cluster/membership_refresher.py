"""MembershipRefresher: fetches the newest membership when a dispatcher misses something, on a thread of its own.

A dispatcher asks from the thread that computes, which must not wait for anybody. However often it asks while a fetch
is under way, one more follows.
"""

import threading
from collections.abc import Callable

from cluster.cluster_status import Membership


class MembershipRefresher:
    """One thread between a dispatcher that asks and a supervisor that may be away. It ends with the process."""

    def __init__(self, fetch: Callable[[], Membership | None], publish: Callable[[Membership], None]) -> None:
        """Hand what `fetch` returns, unless it is None, to `publish`; both may block, and must not raise."""
        self._fetch = fetch
        self._publish = publish
        self._is_asked = threading.Event()
        threading.Thread(target=self._run, name="membership-refresh", daemon=True).start()

    def ask(self, epoch: int) -> None:
        """Have the newest membership published soon, though `epoch` be the newest; returns at once."""
        self._is_asked.set()

    def _run(self) -> None:
        while True:
            self._is_asked.wait()
            self._is_asked.clear()
            membership = self._fetch()
            if membership is not None:
                self._publish(membership)
