"""Supervision: what the supervisor knows and decides, without Ray.

Events come in (a worker is ready, a worker is lost, the owner gave a sign of life), and `step` carries out the next
action of `reconcile` on a `Machinery`. What must survive the supervisor's own death is stored before it is acted on.
"""

import logging
from dataclasses import dataclass, replace

from cluster.clock import Clock
from cluster.cluster_status import BalanceStatus, Member, Membership
from cluster.errors import PlacementError
from cluster.experts.first_placement import Share, first_placement
from cluster.experts.placement import ExpertKey, Placement
from cluster.experts.rebalance import BalanceLimits, BalancePlan
from cluster.experts.traffic import TrafficReport
from cluster.live_placement import LivePlacement
from cluster.machinery import Machinery
from cluster.moves import DropExperts, LoadExperts, MoveAction, MovePolicy, Order, PlanMoves, PublishPlacement
from cluster.reconcile import (
    Action,
    CreateWorker,
    Desired,
    Exit,
    Observed,
    Publish,
    RemoveWorker,
    Rest,
    StopOlder,
    TakeDownApplication,
    WorkerState,
    WorkerView,
    reconcile,
)
from cluster.stored_state import StoredState

MAX_RETRY_DELAY_S = 60.0
STANDSTILL_S = 5.0
"""So long without a step, and this process, or the whole machine, did not run."""
APPLICATION_GRACE_S = 30.0
"""How long a deployed application may be missing before the supervisor takes it for deleted."""

LEAVE_TIMEOUT_S = 20.0
"""How long an application that was told to go keeps its workers."""

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Worker:
    """An incarnation that was made and not removed."""

    incarnation: int
    state: WorkerState = WorkerState.STARTING
    member: Member | None = None
    lost_at_s: float = 0.0
    is_adopted: bool = False
    """It was made by an earlier life of this supervisor, and may be serving already."""


NO_MOVES = MovePolicy(float("inf"), BalanceLimits(max_loads_per_round=0))


class Supervision:
    """The state of one supervisor. Not thread-safe: one thread or event loop owns it."""

    def __init__(
        self, share: Share, stored: StoredState, machinery: Machinery, clock: Clock, policy: MovePolicy = NO_MOVES
    ) -> None:
        """Start from the stored state; workers that still live are told with `adopt`."""
        self._share = share
        self._stored = stored
        self._machinery = machinery
        self._clock = clock
        self._workers: dict[int, _Worker] = {}
        self._num_failures: dict[int, int] = {}
        self._older: list[str] = []
        self._membership: Membership | None = None
        self._lease_until_s = None if stored.lease_s is None else clock.now_s() + stored.lease_s
        self._application_seen_s = clock.now_s() if stored.was_deployed else None
        self._is_application_up = stored.was_deployed  # until somebody knows better
        self._leaving_since_s: float | None = None
        self._stepped_at_s = clock.now_s()
        self._policy = policy
        self._live: LivePlacement | None = None
        if stored.moved_placement is not None:
            self._place(stored.moved_placement, stored.settled_placement)

    @property
    def stored(self) -> StoredState:
        """Return what is stored."""
        return self._stored

    @property
    def membership(self) -> Membership | None:
        """Return the workers of the epoch published last."""
        return self._membership

    def adopt(self, index: int, incarnation: int) -> None:
        """Take over a worker that an earlier life of this supervisor made."""
        self._workers[index] = _Worker(incarnation, is_adopted=True)

    def note_older(self, names: list[str]) -> None:
        """Learn which actors of other revisions live."""
        self._older = list(names)

    def note_application(self, is_up: bool, is_attended: bool = False) -> None:
        """Learn whether the application is deployed, and whether attention replicas of it still report.

        One that was deleted is not given up while its replicas end what they run.
        """
        if is_up and not self._stored.was_deployed:
            self._keep(replace(self._stored, was_deployed=True))
        self._is_application_up = is_up
        if is_up or (is_attended and self._application_seen_s is not None):
            self._application_seen_s = self._clock.now_s()

    def worker_ready(self, member: Member) -> str | None:
        """Learn that a worker can serve; return why it may not, if its bits would differ from the other workers'."""
        worker = self._workers.get(member.index)
        if worker is None or worker.incarnation != member.incarnation or worker.state is not WorkerState.STARTING:
            return None
        expected = self._fingerprint_in_use()
        if expected not in {None, member.fingerprint}:
            self.worker_lost(member.index, member.incarnation)
            return f"its numerics fingerprint is {member.fingerprint}, the other workers' is {expected}"
        if self._stored.worker_fingerprint != member.fingerprint:
            self._keep(replace(self._stored, worker_fingerprint=member.fingerprint))
        worker.state = WorkerState.READY
        worker.member = member
        self._num_failures.pop(member.index, None)
        return None

    def worker_lost(self, index: int, incarnation: int) -> None:
        """Learn that a worker died or could not start."""
        worker = self._workers.get(index)
        if worker is not None and worker.incarnation == incarnation and worker.state is not WorkerState.LOST:
            worker.state = WorkerState.LOST
            worker.lost_at_s = self._clock.now_s()
            self._num_failures[index] = self._num_failures.get(index, 0) + 1

    def renew_lease(self, lease_s: float) -> None:
        """Learn that the owner lives and will speak again within `lease_s`."""
        if self._stored.lease_s != lease_s:
            self._keep(replace(self._stored, lease_s=lease_s))
        self._lease_until_s = self._clock.now_s() + lease_s

    def abandon(self) -> None:
        """Want nothing any more: the application goes, then the workers, then this supervisor."""
        if self._stored.is_wanted:
            self._keep(replace(self._stored, is_wanted=False))

    def scale(self, num_workers: int) -> None:
        """Want so many workers from now on, or all experts beside attention; raises PlacementError saying why not."""
        if num_workers == 0:
            self._require_room()
        elif num_workers < self._share.copies:
            raise PlacementError(
                f"{num_workers} workers cannot hold {self._share.copies} copies of each expert (experts.copies)"
            )
        if num_workers != self.num_workers:
            self._keep(replace(self._stored, num_workers=num_workers))
            if self._live is not None:
                self._live.resize(self._wanted_share())

    def _require_room(self) -> None:
        """Raise PlacementError unless every attention replica can hold all experts."""
        if self.num_workers == 0:
            return
        if self._live is None:
            raise PlacementError("no attention replica has said yet whether all experts could be beside it")
        obstacles = self._live.obstacles(self._clock.now_s())
        if obstacles:
            raise PlacementError(f"all experts cannot be beside attention: {'; '.join(obstacles)}")

    @property
    def num_workers(self) -> int:
        """Return how many workers are wanted."""
        return self._share.num_workers if self._stored.num_workers is None else self._stored.num_workers

    @property
    def num_kept(self) -> int:
        """Return how many workers there may be, by index: those that are wanted, and those that may still be asked."""
        num_placed = self._share.num_workers if self._live is None else self._live.num_kept
        return max(self.num_workers, num_placed)

    @property
    def num_placed(self) -> int | None:
        """Return how many workers the experts are on, while that is not how many are wanted."""
        num_placed = self._share.num_workers if self._live is None else self._live.placement.num_workers
        return None if num_placed == self.num_workers else num_placed

    def note_traffic(self, name: str, report: TrafficReport) -> None:
        """Learn what an attention replica has computed, and by which epoch."""
        if self._live is None or self._live.shape != report.pairs.shape:
            self._place(first_placement(self._share, *report.pairs.shape), None)
        assert self._live is not None, "the experts were just placed"
        self._live.note_traffic(name, report, self._clock.now_s())

    def planned(self, plan: BalancePlan) -> None:
        """Learn which placement should come next."""
        assert self._live is not None, "nothing was to be planned"
        self._live.planned(plan, self._clock.now_s())

    def moved(self, order: Order, held: frozenset[ExpertKey]) -> None:
        """Learn that a worker did what it was asked for, and what it holds now."""
        assert self._live is not None, f"nothing was to be moved: {order}"
        self._live.done(order, held)

    def move_failed(self, order: Order) -> None:
        """Learn that a worker could not do it."""
        assert self._live is not None, f"nothing was to be moved: {order}"
        self._live.failed(order, self._clock.now_s())

    def balance(self) -> BalanceStatus | None:
        """Return how evenly the traffic is shared; None before the first round."""
        live, now_s = self._live, self._clock.now_s()
        if live is None or live.imbalance is None:
            return None
        measured, age_s = live.measured_imbalance, live.round_age_s(now_s)
        return BalanceStatus(live.imbalance, measured, age_s, live.num_loads, live.is_stalled(now_s))

    @property
    def num_rescued(self) -> int:
        """Return how many experts workers hold in place of workers that are, or were, away."""
        return 0 if self._live is None else self._live.num_rescued

    def step(self) -> Action | MoveAction:
        """Carry out the next action and return it.

        To be called again within STANDSTILL_S, whether or not there is anything new.
        """
        self._forgive_standstill()
        self._abandon_if_alone()
        desired = Desired(self._stored.is_wanted, self.num_workers, self.num_kept)
        action = reconcile(desired, self._observe())
        if isinstance(action, Rest) and desired.is_wanted:
            action = self._retell() or self._next_move() or action
        if not isinstance(action, Rest):
            logger.info("supervisor: %s", action)
        self._carry_out(action)
        return action

    def _place(self, placement: Placement, settled: Placement | None) -> None:
        """Go by a placement, towards as many workers as are wanted."""
        num_made = len(self._stored.last_incarnations)
        self._live = LivePlacement(placement, self._policy, self._clock.now_s(), settled, num_made)
        self._live.resize(self._wanted_share())

    def _wanted_share(self) -> Share:
        return replace(self._share, num_workers=self.num_workers)

    def _retell(self) -> Publish | None:
        """Tell attention again who the members are, once it is to hold all experts itself, or need not any more."""
        membership, published = self._membership, self._published()
        if membership is None or published is None or membership.wants_local == (self.num_workers == 0):
            return None
        return Publish(published)

    def _next_move(self) -> MoveAction | None:
        if self._live is None or self._membership is None:
            return None
        ready = {member.index: member.incarnation for member in self._membership.members}
        return self._live.step(ready, self._clock.now_s())

    def _forgive_standstill(self) -> None:
        """Give the owner the time in which this process did not run: a suspended machine suspends the owner too."""
        now_s = self._clock.now_s()
        stood_still_s = now_s - self._stepped_at_s
        self._stepped_at_s = now_s
        if stood_still_s < STANDSTILL_S:
            return
        if self._lease_until_s is not None:
            self._lease_until_s += stood_still_s
        if self._application_seen_s is not None:
            self._application_seen_s += stood_still_s

    def _abandon_if_alone(self) -> None:
        now_s = self._clock.now_s()
        if self._lease_until_s is not None and now_s > self._lease_until_s:
            self.abandon()
        seen_s = self._application_seen_s
        if seen_s is not None and not self._is_application_up and now_s - seen_s > APPLICATION_GRACE_S:
            self.abandon()

    def _observe(self) -> Observed:
        leaving_since_s = self._leaving_since_s
        is_leaving = leaving_since_s is not None
        is_overdue = leaving_since_s is not None and self._clock.now_s() - leaving_since_s > LEAVE_TIMEOUT_S
        return Observed(
            workers=tuple(self._view(index, worker) for index, worker in sorted(self._workers.items())),
            older_actors=tuple(self._older),
            published=self._published(),
            last_incarnations=self._stored.last_incarnations,
            is_application_up=self._is_application_up and not is_overdue,
            is_application_leaving=is_leaving,
        )

    def _view(self, index: int, worker: _Worker) -> WorkerView:
        rested_s = self._clock.now_s() - worker.lost_at_s
        may_retry = rested_s >= retry_delay_s(self._num_failures.get(index, 0))
        return WorkerView(index, worker.incarnation, worker.state, may_retry)

    def _fingerprint_in_use(self) -> str | None:
        """Return what workers must compute like; None if none is left, so that the next may have other hardware."""
        workers = self._workers.values()
        is_in_use = any(
            each.state is WorkerState.READY or (each.is_adopted and each.state is WorkerState.STARTING)
            for each in workers
        )
        return self._stored.worker_fingerprint if is_in_use else None

    def _published(self) -> tuple[tuple[int, int], ...] | None:
        if self._membership is None:
            return None
        return tuple(sorted((member.index, member.incarnation) for member in self._membership.members))

    def _carry_out(self, action: Action | MoveAction) -> None:
        match action:
            case CreateWorker(index, incarnation):
                self._create(index, incarnation)
            case RemoveWorker(index, incarnation):
                self._workers.pop(index, None)
                self._machinery.remove_worker(index, incarnation)
            case Publish(members):
                self._publish(members)
            case LoadExperts() | DropExperts():
                self._machinery.move(action)
            case PlanMoves():
                self._machinery.plan(action)
            case PublishPlacement(placement, settled):
                self._publish_placement(placement, settled)
            case StopOlder(name):
                self._older.remove(name)
                self._machinery.stop_older(name)
            case TakeDownApplication():
                self._leaving_since_s = self._clock.now_s()
                self._machinery.take_down_application()
            case Exit():
                self._machinery.exit()
            case Rest():
                pass

    def _create(self, index: int, incarnation: int) -> None:
        made = list(self._stored.last_incarnations)
        made.extend([0] * (index + 1 - len(made)))
        made[index] = incarnation
        self._keep(replace(self._stored, last_incarnations=tuple(made)))
        self._workers[index] = _Worker(incarnation)
        self._machinery.create_worker(index, incarnation)

    def _publish(self, members: tuple[tuple[int, int], ...]) -> None:
        self._keep(replace(self._stored, epoch=self._stored.epoch + 1))
        found = [self._workers[index].member for index, _ in members]
        ready = tuple(member for member in found if member is not None)
        assert len(ready) == len(members), f"a ready worker has no address: {members}, {ready}"
        self._tell(ready)

    def _publish_placement(self, placement: Placement, settled: Placement | None) -> None:
        """Publish where experts have moved, to the same members; it outlives this process, as the epoch does."""
        live, membership, epoch = self._live, self._membership, self._stored.epoch + 1
        assert live is not None, "nothing could have moved"
        assert membership is not None, "nobody has what was moved"
        before = None if settled is None else settled.to_json()
        text = replace(placement, epoch=epoch).to_json()
        self._keep(replace(self._stored, epoch=epoch, placement=text, settled=before))
        live.published(epoch, self._clock.now_s())
        self._tell(membership.members)

    def _tell(self, members: tuple[Member, ...]) -> None:
        share = self._share
        placement = None if self._live is None or self._stored.placement is None else self._live.placement
        sizes = self._stored.epoch, share.num_workers, share.copies
        wants_local = self.num_workers == 0
        self._membership = Membership(*sizes, members, share.num_spare_slots, placement, wants_local)

    def _keep(self, state: StoredState) -> None:
        self._machinery.store(state)
        self._stored = state


def retry_delay_s(num_failures: int) -> float:
    """Return how long a worker is left alone after so many failures in a row: not after the first, then doubling."""
    return 0.0 if num_failures <= 1 else min(MAX_RETRY_DELAY_S, 2.0 ** (num_failures - 2))
