"""WaitingQueue: the sequences that wait for their turn, in the order in which they get it.

Lower priority numbers go first. Among equal ones tenants take turns by their fair shares, and a tenant's own
sequences come in the order of their arrival. With one tenant, that is the order of arrival.
"""

from bisect import insort
from collections.abc import Iterator
from heapq import heapify, heappop, heapreplace

from cluster.engine.fair_shares import FairShares
from cluster.engine.sequence import Sequence

_Line = list[Sequence]
"""Sequences of one priority and one tenant, by arrival."""


class WaitingQueue:
    """Iterating gives the order without taking anything out; it may be stopped early, and costs only what is read."""

    def __init__(self, shares: FairShares) -> None:
        """Start empty; `shares` knows every tenant that has a sequence in here."""
        self._shares = shares
        self._lines: dict[int, dict[str, _Line]] = {}
        self._num_waiting = 0

    def __len__(self) -> int:
        """Return how many wait."""
        return self._num_waiting

    def __contains__(self, sequence: object) -> bool:
        """Return whether a sequence waits."""
        return isinstance(sequence, Sequence) and sequence in self._line(sequence)

    def __iter__(self) -> Iterator[Sequence]:
        """Yield the sequences in the order of their turns, as if each tenant were charged for the ones before."""
        for priority in sorted(self._lines):
            yield from self._of_priority(priority)

    def unordered(self) -> Iterator[Sequence]:
        """Yield the sequences in any order, which costs least."""
        for by_tenant in self._lines.values():
            for line in by_tenant.values():
                yield from line

    def add(self, sequence: Sequence) -> None:
        """Let a sequence wait."""
        line = self._lines.setdefault(sequence.request.priority, {}).setdefault(sequence.request.tenant, [])
        insort(line, sequence, key=_arrival)
        self._num_waiting += 1

    def remove(self, sequence: Sequence) -> None:
        """Take a sequence out."""
        priority, tenant = sequence.request.priority, sequence.request.tenant
        self._lines[priority][tenant].remove(sequence)
        self._num_waiting -= 1
        if not self._lines[priority][tenant]:
            del self._lines[priority][tenant]
        if not self._lines[priority]:
            del self._lines[priority]

    def check_integrity(self) -> None:
        """Assert that lines are in order and counted."""
        lines = [line for by_tenant in self._lines.values() for line in by_tenant.values()]
        assert all(line and line == sorted(line, key=_arrival) for line in lines), "a waiting line is out of order"
        assert self._num_waiting == sum(map(len, lines)), (self._num_waiting, lines)

    def _line(self, sequence: Sequence) -> _Line:
        return self._lines.get(sequence.request.priority, {}).get(sequence.request.tenant, [])

    def _of_priority(self, priority: int) -> Iterator[Sequence]:
        shares = self._shares
        turns = [
            (shares.is_running(tenant), shares.time_of(tenant), line[0].arrival, 0, line)
            for tenant, line in self._lines[priority].items()
        ]
        heapify(turns)  # no two arrivals are equal, so nothing behind them is compared
        while turns:
            _, time, _, place, line = turns[0]
            sequence = line[place]
            if place + 1 == len(line):
                heappop(turns)
            else:
                time += sequence.num_known / sequence.request.weight
                heapreplace(turns, (True, time, line[place + 1].arrival, place + 1, line))
            yield sequence


def _arrival(sequence: Sequence) -> int:
    return sequence.arrival
