"""What the supervisor tells about the cluster: the published placement's members, and how far each part has come."""

from dataclasses import dataclass, field
from typing import Literal

from cluster.experts.placement import Placement

Role = Literal["attention", "worker"]


@dataclass(frozen=True, slots=True)
class Member:
    """A worker that a placement counts on."""

    worker_id: str
    index: int
    incarnation: int
    address: str
    """host:port of its expert server."""
    fingerprint: str
    """Of the numerics on its device."""


@dataclass(frozen=True, slots=True)
class Membership:
    """The workers of one epoch. `index` names a worker's share of the placement, whoever holds it at the time."""

    epoch: int
    num_workers: int
    copies: int
    members: tuple[Member, ...]
    """The ready ones; fewer than `num_workers` while a worker is being made anew."""
    num_spare_slots: int = 0
    """Experts of each layer that a worker holds beyond its part of the copies."""
    placement: Placement | None = None
    """Where the experts are since the first of them was moved; None before: all know where they are then."""
    wants_local: bool = False
    """Attention is to hold all experts itself, so that there need be no workers any more."""

    @property
    def is_collapsed(self) -> bool:
        """Say whether all experts are beside attention."""
        return self.num_workers == 0 if self.placement is None else self.placement.is_collapsed

    @property
    def needs_no_worker(self) -> bool:
        """Say whether steps run beside attention: all experts are there, or are to be, with no worker left to ask."""
        return self.is_collapsed or (self.wants_local and not self.members)

    @property
    def worker_fingerprint(self) -> str | None:
        """Return the numerics fingerprint that all workers share; None without workers."""
        return self.members[0].fingerprint if self.members else None


@dataclass(frozen=True, slots=True)
class ComponentReport:
    """How far one process of the cluster has come."""

    name: str
    role: Role
    stage: str
    """In a word or two: `loading experts`, `ready`, `failed`."""
    done: int = 0
    total: int = 0
    """Parts of the stage, 0 of 0 if it has none."""
    is_ready: bool = False
    detail: str = ""
    """For people: an address, or why it failed."""
    facts: dict[str, str] = field(default_factory=dict[str, str])
    """What stays true of it: fingerprint, kernel backend, device."""
    stats: dict[str, float] = field(default_factory=dict[str, float])
    """Gauges and counters of an engine, by name."""

    @property
    def fraction(self) -> float:
        """Return the progress from 0 to 1."""
        if self.is_ready:
            return 1.0
        return self.done / self.total if self.total else 0.0


@dataclass(frozen=True, slots=True)
class BalanceStatus:
    """How evenly the workers share the traffic, and whether somebody still sees to it."""

    imbalance: float
    """At the last round: what the fullest worker has to compute over the mean, averaged over the layers."""
    measured_imbalance: float | None
    """Pairs that the fullest worker was sent between the last two rounds, over the mean; None before the second."""
    round_age_s: float
    """Since the last round ended: growing means that the balancing has come to a stop."""
    num_loads: int
    """Experts that were loaded to be moved, since this supervisor began."""
    is_stalled: bool


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    """All of it at one moment."""

    revision: str
    epoch: int | None
    """Of the published placement; None before the first."""
    num_workers: int
    """Those that are wanted."""
    copies: int
    components: tuple[ComponentReport, ...]
    is_wanted: bool = True
    age_s: float = float("inf")
    """How long the supervisor has lived: a young one has not heard from everybody yet."""
    balance: BalanceStatus | None = None
    """None where nothing is balanced, or not yet."""
    num_rescued: int = 0
    """Experts that workers hold in place of workers that are away."""
    num_placed: int | None = None
    """Workers that the experts are on now, while others are on their way in or out; None while none is."""

    @property
    def is_ready(self) -> bool:
        """Return whether at least one attention replica can serve."""
        return any(report.role == "attention" and report.is_ready for report in self.components)

    @property
    def failures(self) -> tuple[ComponentReport, ...]:
        """Return the reports of parts that could not start."""
        return tuple(report for report in self.components if report.stage == FAILED)


SETTLE_S = 10.0
"""After so long a supervisor has heard from everybody who lives."""


def newest_known(last: ClusterStatus | None, fresh: ClusterStatus) -> ClusterStatus:
    """Return the status to believe: a supervisor that has just started anew does not undo that the cluster serves."""
    if last is not None and last.is_ready and not fresh.is_ready and fresh.age_s < SETTLE_S:
        return last
    return fresh


PREPARING = "preparing the kernels"
"""The stage before loading; on a CPU, a first start compiles them."""
READY = "ready"
FAILED = "failed"
"""It could not start, and says why."""
LOST = "lost"
"""Its process has died."""
