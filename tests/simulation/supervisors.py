"""The supervisor as a process that dies and comes back from what it stored, over workers that outlive it.

It moves experts all the time: in place of the planner, chance swaps two of each layer.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from cluster.cluster_spec import worker_id
from cluster.cluster_status import Member, Membership
from cluster.errors import PlacementError
from cluster.experts.first_placement import Share
from cluster.experts.placement import Copies, Placement
from cluster.experts.rebalance import BalanceLimits, BalancePlan, balance_plan
from cluster.experts.traffic import TrafficReport
from cluster.moves import LoadExperts, MovePolicy, Order, PlanMoves
from cluster.reconcile import Rest
from cluster.stored_state import StoredState
from cluster.supervision import Supervision
from tests.cluster.experts.hand import HandShard
from tests.simulation.paper_model import NUM_EXPERTS, NUM_LAYERS
from tests.simulation.workers import DETECTION_S, Seat, WorkerProcess
from tests.simulation.world import World

LOAD_S = 2.0
"""Longest time until a new worker is ready."""
TICK_S = 0.5
RESTART_S = 3.0
ASK_S = 0.05
MOVE_S = 0.3
"""Longest time until a worker has loaded or dropped what it was asked to, or a plan is made."""
OWNER_LEASE_S = 10.0
ODD = 0.05
"""Share of new workers with other hardware than those that are there."""
OLDER = "a supervisor of another revision"
POLICY = MovePolicy(1.0, BalanceLimits(), max_rescued_experts=1000)


@dataclass
class Store:
    """What outlives every process: the stored state, and all workers ever made."""

    state: StoredState
    has_owner: bool = False
    """Somebody renews the lease."""
    is_deployed: bool = True
    """The application in front is up."""
    has_exited: bool = False
    follows_traffic: bool = False
    """Experts are moved by the traffic, not by chance."""
    workers: dict[Seat, WorkerProcess] = field(default_factory=dict[Seat, WorkerProcess])


class SupervisorProcess:
    """One life of the supervisor: the real `Supervision`, with workers of this world for machinery."""

    def __init__(self, world: World, store: Store, share: Share, is_asked: Callable[[WorkerProcess], bool]) -> None:
        """Begin from the store; `is_asked` says whether the attention replica counts on a worker."""
        self._world, self._store, self._share, self._is_asked = world, store, share, is_asked
        self._supervision = Supervision(share, store.state, self, world, POLICY)
        self.is_alive = True
        self._still_until_s = 0.0
        made = [store.workers.get(seat) for seat in enumerate(store.state.last_incarnations)]
        living = [process for process in made if process is not None and process.is_alive]
        for process in living:
            self._supervision.adopt(*process.seat)
        for process in living:
            self._follow(process)
        if not store.state.epoch and world.chance.random() < 0.2:
            self._supervision.note_older([OLDER])
        self._tick()

    @property
    def membership(self) -> Membership | None:
        """Return the membership published last in this life."""
        return self._supervision.membership

    def abandon(self) -> None:
        """Want nothing any more."""
        self._supervision.abandon()

    def die(self) -> None:
        """End at once; another life begins after a while."""
        self._world.note("the supervisor dies")
        self.is_alive = False

    def stand_still(self, seconds: float) -> None:
        """Do nothing for a while, as on a machine that was suspended."""
        self._world.note(f"the supervisor stands still for {seconds:.2f} s")
        self._still_until_s = self._world.now_s() + seconds

    def store(self, state: StoredState) -> None:
        """Keep the state as the document that it is stored as."""
        self._store.state = StoredState.from_json(state.to_json())

    def create_worker(self, index: int, incarnation: int) -> None:
        """Start a worker with the experts of its share of the placement."""
        assert (index, incarnation) not in self._store.workers, f"worker {index}.{incarnation} is made a second time"
        placement = self._store.state.moved_placement or share_placement(self._share)
        shard = HandShard(set(placement.experts_on(worker_id(index))))
        process = self._store.workers[index, incarnation] = WorkerProcess(self._world, (index, incarnation), shard)
        process.is_odd = self._world.chance.random() < ODD
        self._world.soon(LOAD_S, lambda: setattr(process, "is_ready", True))
        self._follow(process)

    def remove_worker(self, index: int, incarnation: int) -> None:
        """End a worker, dead or alive."""
        process = self._store.workers[index, incarnation]
        is_asked = process.is_alive and not process.was_refused and self._is_asked(process)
        assert not is_asked, f"worker {process.seat} goes while it is asked"
        process.die()

    def move(self, order: Order) -> None:
        """Let a worker load or drop after a while, whether or not this process still hears of it."""
        process = self._store.workers[order.index, order.incarnation]
        self._world.soon(MOVE_S, lambda: self._move(order, process))

    def plan(self, action: PlanMoves) -> None:
        """Make a plan after a while: by the traffic, or one that swaps two experts of each layer."""
        placement = action.placement
        if self._store.follows_traffic:
            plan = balance_plan(placement, action.shares, action.limits)
        else:
            plan = BalancePlan(replace(placement, epoch=placement.epoch + 1, copies=self._swapped(placement)), 1.0)
        self._world.soon(MOVE_S, lambda: self._planned(plan))

    def scale(self, num_workers: int) -> None:
        """Want another number of workers, as an operator may."""
        if self.is_alive:
            self._world.note(f"{num_workers} workers are wanted")
            with contextlib.suppress(PlacementError):  # too few, or attention has no room for all
                self._supervision.scale(num_workers)
            self._act()

    @property
    def is_settled(self) -> bool:
        """Return whether as many workers as are wanted share the experts, and there are no others."""
        wanted, membership = self._supervision.num_workers, self._supervision.membership
        if not self.is_alive or membership is None or len(membership.members) != wanted:
            return False
        placed = wanted if membership.placement is None else membership.placement.num_workers
        return placed == wanted == sum(process.is_alive for process in self._store.workers.values())

    def note_traffic(self, report: TrafficReport) -> None:
        """Take what the attention replica tells."""
        self._supervision.note_traffic("attention", report)
        status = self._supervision.balance()
        assert status is None or not status.is_stalled, "balancing has come to a stop"

    def stop_older(self, name: str) -> None:
        """See that it is the one of another revision that was told of."""
        assert name == OLDER, name

    def take_down_application(self) -> None:
        """Let the application go after a while; some take too long."""
        assert not self._store.has_owner or not self._store.is_deployed or not self._store.state.is_wanted
        self._world.later(self._world.chance.choice([0.5, 60.0]), lambda: setattr(self._store, "is_deployed", False))

    def exit(self) -> None:
        """End for good."""
        living = [process.seat for process in self._store.workers.values() if process.is_alive]
        assert not living, f"workers {living} outlive their supervisor"
        self._store.has_exited, self.is_alive = True, False

    def _follow(self, process: WorkerProcess) -> None:
        process.on_death.append(lambda: self._world.soon(DETECTION_S, lambda: self._lost(process)))
        self._ask(process)

    def _ask(self, process: WorkerProcess) -> None:
        """Wait for a worker's own word that it is ready."""
        if not self.is_alive or not process.is_alive:
            return
        if not process.is_ready or process.hung_until_s > self._world.now_s():
            self._world.later(ASK_S, lambda: self._ask(process))
            return
        index, incarnation = process.seat
        others = [] if self.membership is None else [one for one in self.membership.members if one.index != index]
        fingerprint = "odd" if process.is_odd and others else "paper"
        member = Member(worker_id(index), index, incarnation, f"{index}.{incarnation}:1", fingerprint)
        refusal = self._supervision.worker_ready(member)
        process.was_refused = refusal is not None
        assert refusal is None or fingerprint == "odd", refusal
        self._act()

    def _move(self, order: Order, process: WorkerProcess) -> None:
        wait_s = process.hung_until_s - self._world.now_s()
        if process.is_alive and wait_s > 0:
            self._world.later(wait_s, lambda: self._move(order, process))
            return
        if process.is_alive:
            process.shard.held = (
                process.shard.held | order.keys if isinstance(order, LoadExperts) else process.shard.held - order.keys
            )
        if self.is_alive and process.is_alive:
            self._supervision.moved(order, frozenset(process.shard.held))
            self._act()
        elif self.is_alive:
            self._supervision.move_failed(order)
            self._act()

    def _planned(self, plan: BalancePlan) -> None:
        if self.is_alive:
            self._supervision.planned(plan)
            self._act()

    def _swapped(self, placement: Placement) -> Copies:
        layers = [list(layer) for layer in placement.copies]
        for layer in layers:
            one, other = self._world.chance.sample(range(NUM_EXPERTS), 2)
            layer[one], layer[other] = layer[other], layer[one]
        return tuple(tuple(layer) for layer in layers)

    def _lost(self, process: WorkerProcess) -> None:
        if self.is_alive:
            self._supervision.worker_lost(*process.seat)
            self._act()

    def _tick(self) -> None:
        if self.is_alive:
            self._act()
            self._world.later(TICK_S, self._tick)

    def _act(self) -> None:
        if self._world.now_s() < self._still_until_s:
            return
        if self._store.has_owner:
            self._supervision.renew_lease(OWNER_LEASE_S)
        self._supervision.note_application(self._store.is_deployed)
        while not self._store.has_exited and not isinstance(self._supervision.step(), Rest):
            pass


def share_placement(share: Share, epoch: int = 0) -> Placement:
    """Return which worker holds which experts."""
    workers = [worker_id(index) for index in range(share.num_workers)]
    return Placement.uniform(NUM_LAYERS, NUM_EXPERTS, workers, share.copies, epoch)
