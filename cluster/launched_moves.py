"""Moves experts between the plain processes of `cluster.launch`, as the supervisor does between Ray's actors."""

import time
from collections.abc import Callable, Mapping
from typing import Protocol

from cluster.clock import MonotonicClock
from cluster.cluster_status import Member
from cluster.errors import ExpertError
from cluster.experts.client import ExpertControl
from cluster.experts.placement import Placement
from cluster.experts.rebalance import balance_plan
from cluster.experts.traffic import TrafficReport
from cluster.live_placement import LivePlacement
from cluster.moves import DropExperts, LoadExperts, MovePolicy, Order, PlanMoves, PublishPlacement

_POLL_S = 0.002


class Movable(Protocol):
    """The cluster whose experts are moved; `cluster.launch.LaunchedCluster`."""

    def members_by_index(self) -> Mapping[int, Member]:
        """Return the workers that live."""
        ...

    def traffic_reports(self) -> Mapping[str, TrafficReport]:
        """Return what each attention process tells, by its name."""
        ...

    def publish_placement(self, placement: Placement) -> int:
        """Have everybody send by `placement` from now on; return the epoch that it got."""
        ...


class LaunchedMoves:
    """Drives a LivePlacement in the calling thread, one order after the other."""

    def __init__(self, cluster: Movable, placement: Placement, policy: MovePolicy, secret: str) -> None:
        """Begin with the placement that the workers were started for."""
        self.on_order: Callable[[Order], None] = _let_pass
        """Called before an order is carried out. May be set at any time."""
        self._cluster = cluster
        self._secret = secret
        self._clock = MonotonicClock()
        self.live = LivePlacement(placement, policy, self._clock.now_s())

    def settle(self, timeout_s: float = 60.0) -> None:
        """Carry out what is to be done until nothing is left; raises TimeoutError."""
        deadline_s = self._clock.now_s() + timeout_s
        while self.step() or self.live.is_moving:
            if self._clock.now_s() > deadline_s:
                raise TimeoutError(f"moves are still under way after {timeout_s:g} s")

    def step(self) -> bool:
        """Carry out the next action; without one wait for a moment and return False."""
        now_s = self._clock.now_s()
        for name, report in self._cluster.traffic_reports().items():
            self.live.note_traffic(name, report, now_s)
        ready = {index: member.incarnation for index, member in self._cluster.members_by_index().items()}
        match action := self.live.step(ready, now_s):
            case LoadExperts() | DropExperts():
                self._carry_out(action)
            case PlanMoves(placement, shares, limits):
                self.live.planned(balance_plan(placement, shares, limits), self._clock.now_s())
            case PublishPlacement(placement):
                self.live.published(self._cluster.publish_placement(placement), self._clock.now_s())
            case None:
                time.sleep(_POLL_S)
        return action is not None

    def _carry_out(self, order: Order) -> None:
        self.on_order(order)
        member = self._cluster.members_by_index().get(order.index)
        if member is None:
            self.live.failed(order, self._clock.now_s())
            return
        try:
            with ExpertControl(member.worker_id, member.address, self._secret) as control:
                (control.put if isinstance(order, LoadExperts) else control.drop)(order.epoch, sorted(order.keys))
                resident = control.status().resident
        except ExpertError:
            self.live.failed(order, self._clock.now_s())
        else:
            self.live.done(order, frozenset((each.layer, each.expert) for each in resident))


def _let_pass(order: Order) -> None:
    """Stand in where nobody looks at orders."""
