"""Hedging: when a send has taken too long, whether another copy may be asked as well, and who is not asked first.

Deadlines follow measured times, between a floor and a ceiling. When everything is slow, asking twice makes it slower:
so a send is hedged once, hedges are a small share of all sends, and beyond that waits are doubled, up to the ceiling.
"""

from cluster.experts.answer_times import AnswerTimes
from cluster.experts.dispatch_limits import DispatchLimits
from cluster.experts.placement import WorkerId

BURST = 8.0
"""Hedges that may be had at once after a calm time: as many layers are under way only with as many micro-batches."""
REFILL_PER_S = 1.0
"""Hedges that may be had each second however few sends there are, or a stand-still would never be hedged."""


class Hedging:
    """What a dispatcher knows of its workers' promptness. Without a clock: times come in."""

    def __init__(self, limits: DispatchLimits) -> None:
        """Know nothing of anybody, and have the whole burst to spend."""
        self.suspects: set[WorkerId] = set()
        """Workers that have let a send grow late and have said nothing since: others are asked before them."""
        self._limits = limits
        self._times = AnswerTimes()
        self._budget = BURST
        self._refilled_at_s = 0.0

    def patience_s(self, worker: WorkerId, num_pairs: int) -> float:
        """Return how long to wait for `worker`; counts as a send. Before any answer it is the ceiling."""
        limits = self._limits
        self._budget = min(BURST, self._budget + limits.hedge_fraction)
        usual_s = self._times.usual_s(worker, num_pairs)
        if usual_s is None:
            return limits.reply_timeout_s
        return min(limits.reply_timeout_s, max(limits.min_hedge_s, limits.max_reply_ratio * usual_s))

    def may_hedge(self, is_at_ceiling: bool, now_s: float) -> bool:
        """Say whether a late send may be hedged now, and spend that; one at the ceiling may in any case."""
        self._budget = min(BURST, self._budget + REFILL_PER_S * max(0.0, now_s - self._refilled_at_s))
        self._refilled_at_s = now_s
        if self._budget < 1.0:
            return is_at_ceiling
        self._budget -= 1.0
        return True

    def grew_late(self, worker: WorkerId, num_pairs: int, waited_s: float) -> None:
        """Learn that `worker` has not answered within `waited_s`: it takes at least so long."""
        self.suspects.add(worker)
        self._times.note(worker, num_pairs, waited_s)

    def answered(self, worker: WorkerId, num_pairs: int, took_s: float) -> None:
        """Learn that `worker` has answered in time."""
        self._times.note(worker, num_pairs, took_s)

    def heard_from(self, worker: WorkerId) -> None:
        """Learn that `worker` lives, or that its stream has begun or ended: nothing is held against it."""
        self.suspects.discard(worker)
