"""DispatchCounters: what a dispatcher has done so far."""

from collections import Counter
from dataclasses import dataclass, field

from cluster.experts.placement import WorkerId


@dataclass(slots=True)
class DispatchCounters:
    """Counts from the start of the process."""

    sends: int = 0
    resends: int = 0
    """Sends of pairs that another worker owed."""
    hedges: int = 0
    """Resends while the worker that owes them may still answer."""
    hedge_wins: int = 0
    """Hedges that were answered first."""
    fallbacks: int = 0
    """Sends to this process itself, because no worker could be asked."""
    completed: int = 0
    failed: int = 0
    forgotten: int = 0
    """Layers that their micro-batch left behind."""
    lacks: int = 0
    failures: int = 0
    """Requests that a worker could not compute."""
    dropped: Counter[str] = field(default_factory=Counter[str])
    """Answers that did not count, by reason."""
    pairs: Counter[WorkerId] = field(default_factory=Counter[WorkerId])
    """(token, expert) pairs that were sent to each worker."""

    def gauges(self) -> dict[str, float]:
        """Return the counts that an operator looks at, by name, as they are reported."""
        return {
            "num_expert_sends": self.sends,
            "num_expert_resends": self.resends,
            "num_expert_hedges": self.hedges,
            "num_expert_hedge_wins": self.hedge_wins,
            "num_expert_fallbacks": self.fallbacks,
        }
