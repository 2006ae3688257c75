"""What moves experts between workers: orders to workers, plans, publications; and when any of it is done by itself."""

from dataclasses import dataclass, field

from cluster.config import ExpertsSection
from cluster.experts.placement import ExpertKey, Placement
from cluster.experts.rebalance import BalanceLimits
from cluster.experts.traffic import FloatArray

Keys = frozenset[ExpertKey]


@dataclass(frozen=True, slots=True)
class MovePolicy:
    """When experts are moved by themselves."""

    interval_s: float
    limits: BalanceLimits
    max_rescued_experts: int = 0
    """That a worker loads in place of workers that are away."""

    @property
    def is_on(self) -> bool:
        """Say whether any are."""
        return self.limits.max_loads_per_round > 0


def move_policy(section: ExpertsSection) -> MovePolicy:
    """Return when experts are moved, by the config."""
    limits = BalanceLimits(max_loads_per_round=section.max_moves_per_round, min_copies=section.copies)
    return MovePolicy(section.rebalance_interval_s, limits, section.max_rescued_experts)


@dataclass(frozen=True, slots=True)
class LoadExperts:
    """Have an incarnation of a worker load experts, beside those that it holds."""

    index: int
    incarnation: int
    epoch: int
    keys: Keys = field(repr=False)


@dataclass(frozen=True, slots=True)
class DropExperts:
    """Have an incarnation of a worker forget experts."""

    index: int
    incarnation: int
    epoch: int
    keys: Keys = field(repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class PlanMoves:
    """Work out the next placement; it takes a while."""

    placement: Placement = field(repr=False)
    shares: FloatArray = field(repr=False)
    """[L, E]."""
    limits: BalanceLimits


@dataclass(frozen=True, slots=True)
class PublishPlacement:
    """Publish a placement; all that its ready workers should hold is loaded."""

    placement: Placement = field(repr=False)
    settled: Placement | None = field(default=None, repr=False)
    """In a rescue, the placement to return to, which must outlive this process too."""


Order = LoadExperts | DropExperts
MoveAction = Order | PlanMoves | PublishPlacement
