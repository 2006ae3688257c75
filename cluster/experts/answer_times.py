"""AnswerTimes: how long workers usually take to answer, by worker and size of the request. Without a clock.

An estimate that leans to the slow side: it rises fast and falls slowly, and so stays near the longest of the usual
times. Requests of like size share one: their numbers of pairs have the same number of binary digits.
"""

from cluster.experts.placement import WorkerId

RISE = 0.3
"""Share of a longer time in the new estimate; rising is fast, because a hedge that was not needed costs work."""
FALL = 0.05
"""Share of a shorter one: after 60 answers, a twentieth is left of an outlier."""


class AnswerTimes:
    """Decayed answer times. What is not known of a worker or size is guessed from those that are nearest."""

    def __init__(self) -> None:
        """Know nothing."""
        self._by_worker: dict[WorkerId, dict[int, float]] = {}

    def note(self, worker: WorkerId, num_pairs: int, took_s: float) -> None:
        """Learn that `worker` took so long for a request of `num_pairs` pairs."""
        times, size = self._by_worker.setdefault(worker, {}), num_pairs.bit_length()
        known_s = times.get(size)
        if known_s is None:
            times[size] = took_s
        else:
            times[size] = known_s + (RISE if took_s > known_s else FALL) * (took_s - known_s)

    def usual_s(self, worker: WorkerId, num_pairs: int) -> float | None:
        """Return how long `worker` usually takes for `num_pairs` pairs; None before anything was learned.

        An unknown size is taken from the nearest known one, in proportion if that is smaller; an unknown worker is
        taken for the slowest of the known ones.
        """
        size = num_pairs.bit_length()
        times = self._by_worker.get(worker)
        if times:
            return _for_size(times, size)
        return max((_for_size(each, size) for each in self._by_worker.values()), default=None)


def _for_size(times: dict[int, float], size: int) -> float:
    known_s = times.get(size)
    if known_s is not None:
        return known_s
    nearest = min(times, key=lambda known: (abs(known - size), known))
    return times[nearest] * 2.0 ** max(0, size - nearest)
