"""FairShares: how much each tenant's sequences have had computed, and whose turn it is. No I/O, no clock.

Whoever runs nothing is next. Otherwise virtual time decides, as in weighted fair queueing: a tenant's time is the
tokens computed for it, prompt and output, divided by its weight, and whoever has the least of it is next. A tenant
that comes anew starts where the last of those inside stands, so that nobody saves up turns while away, and nobody
leaves its debt behind by going for a moment.
(Start-time fair queueing: Goyal, Vin, Cheng, SIGCOMM 1996.)
"""

from collections import Counter
from collections.abc import Iterable

from cluster.engine.sequence import SequenceRequest

_MOST_PER_FREE = 4


def may_hold_one_more(num_own: int, num_free: int) -> bool:
    """Return whether somebody who holds `num_own` places of a bounded queue may take one of `num_free`.

    Nobody holds more than four times what is free: one alone gets four fifths of all places, two get four ninths each,
    and however many want everything, there is room for one who comes anew. (Dynamic thresholds: Choudhury, Hahne,
    IEEE/ACM Transactions on Networking 1998.)
    """
    return num_own < _MOST_PER_FREE * num_free


class FairShares:
    """The virtual times of an engine's tenants."""

    def __init__(self) -> None:
        """Start with nobody inside."""
        self._times: dict[str, float] = {}
        """Of tenants inside, and of those away whose time is ahead of everybody's inside."""
        self._num_inside: dict[str, int] = {}
        self._num_running: Counter[str] = Counter()

    def join(self, tenant: str) -> None:
        """Take note of a sequence that comes in."""
        if tenant not in self._num_inside:
            start = self._floor()
            self._times[tenant] = max(self._times.get(tenant, start), start)
        self._num_inside[tenant] = self._num_inside.get(tenant, 0) + 1

    def leave(self, tenant: str) -> None:
        """Take note of a sequence that goes."""
        self._num_inside[tenant] -= 1
        if self._num_inside[tenant]:
            return
        del self._num_inside[tenant]
        floor = self._floor()
        is_idle = not self._num_inside
        kept = {name: time for name, time in self._times.items() if name in self._num_inside or time > floor}
        self._times = {} if is_idle else kept

    def begin(self, tenant: str) -> None:
        """Take note of a sequence that runs from now on."""
        self._num_running[tenant] += 1

    def stop(self, tenant: str) -> None:
        """Take note of a sequence that runs no more."""
        self._num_running[tenant] -= 1
        if not self._num_running[tenant]:
            del self._num_running[tenant]

    def charge(self, request: SequenceRequest, num_tokens: int) -> None:
        """Count tokens that were computed for a sequence that is inside."""
        self._times[request.tenant] += num_tokens / request.weight

    def is_running(self, tenant: str) -> bool:
        """Return whether a sequence of a tenant runs."""
        return tenant in self._num_running

    def time_of(self, tenant: str) -> float:
        """Return the virtual time of a tenant that is inside."""
        return self._times[tenant]

    @property
    def num_tenants(self) -> int:
        """Return how many tenants have a sequence inside."""
        return len(self._num_inside)

    def check_integrity(self, inside: Iterable[str], running: Iterable[str]) -> None:
        """Assert that the books fit the tenants of all sequences inside and of those that run, as often as they are."""
        assert Counter(inside) == self._num_inside, self._num_inside
        assert Counter(running) == self._num_running, self._num_running
        assert set(self._num_inside) <= set(self._times), (self._num_inside, self._times)

    def _floor(self) -> float:
        return min((self._times[tenant] for tenant in self._num_inside), default=0.0)
