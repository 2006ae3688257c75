"""A LivePlacement to try, with workers that are sets and one attention process."""

from dataclasses import dataclass, field, replace

import numpy as np

from cluster.experts.placement import Placement
from cluster.experts.rebalance import BalanceLimits, balance_plan
from cluster.experts.traffic import TrafficReport
from cluster.live_placement import LivePlacement, shares_by_worker
from cluster.moves import DropExperts, Keys, LoadExperts, MoveAction, MovePolicy, PlanMoves, PublishPlacement

POLICY = MovePolicy(10.0, BalanceLimits(max_loads_per_round=4))
OFF = MovePolicy(10.0, BalanceLimits(max_loads_per_round=0))
FIRST = Placement(3, 1, 4, ("worker-0", "worker-1"), (((0,), (0,), (1,), (1,)),))
SWAPPED = replace(FIRST, epoch=4, copies=(((0,), (1,), (0,), (1,)),))
"""Experts 1 and 2 have changed places."""


@dataclass
class Rig:
    """A live placement, workers that are sets, and one attention process."""

    placement: Placement = FIRST
    policy: MovePolicy = OFF
    now_s: float = 100.0
    held: dict[tuple[int, int], Keys] = field(default_factory=dict[tuple[int, int], Keys])
    """By index and incarnation of the living workers."""
    attention_epoch: int = 3
    has_all: bool = False
    """The attention process holds every expert itself."""
    obstacle: str = ""

    def __post_init__(self) -> None:
        self.live = LivePlacement(self.placement, self.policy, self.now_s)
        for index, share in enumerate(shares_by_worker(self.placement)):
            self.held[index, 1] = share
        self.epoch = self.placement.epoch

    def step(self) -> MoveAction | None:
        return self.live.step(dict(self.held.keys()), self.now_s)

    def report(self, pairs: "np.ndarray | None" = None) -> None:
        """Have the attention process tell its traffic."""
        self.now_s += 0.1
        shape = self.placement.num_layers, self.placement.num_experts
        counts = np.zeros(shape) if pairs is None else pairs
        report = TrafficReport(counts, self.attention_epoch, has_all=self.has_all, obstacle=self.obstacle)
        self.live.note_traffic("attention", report, self.now_s)

    def do(self, action: MoveAction | None) -> None:
        """Carry an action out as the world should."""
        match action:
            case LoadExperts(index, incarnation, _, keys):
                self.held[index, incarnation] |= keys
                self.live.done(action, self.held[index, incarnation])
            case DropExperts(index, incarnation, _, keys):
                self.held[index, incarnation] -= keys
                self.live.done(action, self.held[index, incarnation])
            case PublishPlacement(placement):
                self.check_held(placement)
                self.epoch += 1
                self.live.published(self.epoch, self.now_s)
            case PlanMoves(placement, shares, limits):
                self.live.planned(balance_plan(placement, shares, limits), self.now_s)
            case None:
                pass

    def settle(self) -> list[str]:
        """Act until nothing is to be done; return what was."""
        done: list[str] = []
        while (action := self.step()) is not None:
            done.append(type(action).__name__)
            self.do(action)
            assert len(done) < 100, done
        return done

    def check_held(self, placement: Placement) -> None:
        for (index, _), held in self.held.items():
            share = placement.experts_on(f"worker-{index}")
            assert share <= held, f"worker {index} lacks what is published"

    def check_clean(self) -> None:
        """Nothing more and nothing less than the published placement is held."""
        assert [held for _, held in sorted(self.held.items())] == shares_by_worker(self.live.placement)
        assert not self.live.is_moving


def rig_at_rest(**changes: object) -> Rig:
    rig = Rig(**changes)  # pyright: ignore[reportArgumentType]
    assert rig.settle() == ["LoadExperts"] * len(rig.held), "each worker is asked what it holds"
    return rig
