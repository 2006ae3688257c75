"""Many seeds, each a cluster of its own, shared out among several processes."""

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import get_context

from tests.simulation.cluster import SimulatedCluster

_SEEDS_AT_ONCE = 20


@dataclass(frozen=True, slots=True)
class Played:
    """What became of one seed."""

    seed: int
    num_events: int
    num_faults: int
    """Lines of its trace: whatever befell the cluster."""
    violation: str | None
    """What did not hold; None if all did."""


@dataclass(slots=True)
class Tally:
    """What became of all seeds so far."""

    num_played: int = 0
    num_events: int = 0
    num_faults: int = 0
    num_violations: int = 0

    def take(self, played: Played) -> None:
        """Count one seed."""
        self.num_played += 1
        self.num_events += played.num_events
        self.num_faults += played.num_faults
        self.num_violations += played.violation is not None


def play(seed: int) -> Played:
    """Play one seed; whatever goes wrong in it, an exception of the played objects too, is its violation."""
    simulated = SimulatedCluster(seed)
    violation = None
    try:
        simulated.run()
    except Exception as error:  # noqa: BLE001 - a KeyError in the played objects is a finding too
        violation = f"{type(error).__name__}: {error}"
    return Played(seed, simulated.world.num_events, len(simulated.world.trace), violation)


def play_all(seeds: range, num_processes: int) -> Iterator[Played]:
    """Yield every seed's end as it comes; closing the iterator ends the processes. A single one is this process."""
    if num_processes == 1:
        yield from map(play, seeds)
        return
    with get_context("spawn").Pool(num_processes, initializer=_leave_ctrl_c_to_the_parent) as pool:
        yield from pool.imap_unordered(play, seeds, chunksize=_SEEDS_AT_ONCE)


def _leave_ctrl_c_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def num_usable_cpus() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
