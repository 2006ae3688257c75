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
from cluster.experts.rebalance import BalanceLimits, BalancePlan
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
POLICY = MovePolicy(1.0, BalanceLimits(), max_rescued_experts=1000)


@dataclass
class Store:
    """What outlives every process: the stored state, and all workers ever made."""

    state: StoredState
    workers: dict[Seat, WorkerProcess] = field(default_factory=dict[Seat, WorkerProcess])


class SupervisorProcess:
    """One life of the supervisor: the real `Supervision`, with workers of this world for machinery."""

    def __init__(self, world: World, store: Store, share: Share, is_asked: Callable[[WorkerProcess], bool]) -> None:
        """Begin from the store; `is_asked` says whether the attention replica counts on a worker."""
        self._world, self._store, self._share, self._is_asked = world, store, share, is_asked
        self._supervision = Supervision(share, store.state, self, world, POLICY)
        self.is_alive = True
        made = [store.workers.get(seat) for seat in enumerate(store.state.last_incarnations)]
        living = [process for process in made if process is not None and process.is_alive]
        for process in living:
            self._supervision.adopt(*process.seat)
        for process in living:
            self._follow(process)
        self._tick()

    @property
    def membership(self) -> Membership | None:
        """Return the membership published last in this life."""
        return self._supervision.membership

    def die(self) -> None:
        """End at once; another life begins after a while."""
        self._world.note("the supervisor dies")
        self.is_alive = False

    def store(self, state: StoredState) -> None:
        """Keep the state as the document that it is stored as."""
        self._store.state = StoredState.from_json(state.to_json())

    def create_worker(self, index: int, incarnation: int) -> None:
        """Start a worker with the experts of its share of the placement."""
        assert (index, incarnation) not in self._store.workers, f"worker {index}.{incarnation} is made a second time"
        placement = self._store.state.moved_placement or share_placement(self._share)
        shard = HandShard(set(placement.experts_on(worker_id(index))))
        process = self._store.workers[index, incarnation] = WorkerProcess(self._world, (index, incarnation), shard)
        self._world.soon(LOAD_S, lambda: setattr(process, "is_ready", True))
        self._follow(process)

    def remove_worker(self, index: int, incarnation: int) -> None:
        """End a worker, dead or alive."""
        process = self._store.workers[index, incarnation]
        assert not (process.is_alive and self._is_asked(process)), f"worker {process.seat} goes while it is asked"
        process.die()

    def move(self, order: Order) -> None:
        """Let a worker load or drop after a while, whether or not this process still hears of it."""
        process = self._store.workers[order.index, order.incarnation]
        self._world.soon(MOVE_S, lambda: self._move(order, process))

    def plan(self, action: PlanMoves) -> None:
        """Swap two experts of each layer after a while."""
        self._world.soon(MOVE_S, lambda: self._planned(action.placement))

    def scale(self, num_workers: int) -> None:
        """Want another number of workers, as an operator may."""
        if self.is_alive:
            self._world.note(f"{num_workers} workers are wanted")
            with contextlib.suppress(PlacementError):  # nobody has said yet whether all could be beside attention
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

    def stop_older(self, name: str) -> None:
        """Refuse: there are no other revisions here."""
        raise AssertionError(name)

    def take_down_application(self) -> None:
        """Refuse: the application stays."""
        raise AssertionError("the application was taken down")

    def exit(self) -> None:
        """Refuse: the supervisor is wanted."""
        raise AssertionError("the supervisor gave itself up")

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
        member = Member(worker_id(index), index, incarnation, f"{index}.{incarnation}:1", "paper")
        assert self._supervision.worker_ready(member) is None
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

    def _planned(self, placement: Placement) -> None:
        if self.is_alive:
            moved = replace(placement, epoch=placement.epoch + 1, copies=self._swapped(placement))
            self._supervision.planned(BalancePlan(moved, 1.0))
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
        while not isinstance(self._supervision.step(), Rest):
            pass


def share_placement(share: Share, epoch: int = 0) -> Placement:
    """Return which worker holds which experts."""
    workers = [worker_id(index) for index in range(share.num_workers)]
    return Placement.uniform(NUM_LAYERS, NUM_EXPERTS, workers, share.copies, epoch)
