"""A supervision with a hand-made machinery and clock."""

from dataclasses import dataclass, field

from cluster.clock import ManualClock
from cluster.cluster_status import Member
from cluster.experts.first_placement import Share
from cluster.moves import Order, PlanMoves
from cluster.reconcile import Rest
from cluster.stored_state import StoredState
from cluster.supervision import Supervision


@dataclass
class HandMachinery:
    """Carries actions out in a world that is a few sets."""

    stored: StoredState | None = None
    workers: set[tuple[int, int]] = field(default_factory=set[tuple[int, int]])
    ever_made: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    stopped: list[str] = field(default_factory=list[str])
    is_application_leaving: bool = False
    has_exited: bool = False

    def store(self, state: StoredState) -> None:
        self.stored = StoredState.from_json(state.to_json())

    def create_worker(self, index: int, incarnation: int) -> None:
        assert self.stored is not None
        assert self.stored.wants_worker(index, incarnation), "a worker must find itself wanted when it looks"
        self.workers.add((index, incarnation))
        self.ever_made.append((index, incarnation))

    def remove_worker(self, index: int, incarnation: int) -> None:
        self.workers.discard((index, incarnation))

    def move(self, order: Order) -> None:
        raise AssertionError(order)

    def plan(self, action: PlanMoves) -> None:
        raise AssertionError(action)

    def stop_older(self, name: str) -> None:
        self.stopped.append(name)

    def take_down_application(self) -> None:
        assert self.workers, "the application goes before its workers"
        self.is_application_leaving = True

    def exit(self) -> None:
        self.has_exited = True


class Rig:
    """A supervision, its machinery and its clock."""

    def __init__(self, num_workers: int = 2, stored: StoredState | None = None) -> None:
        self.clock = ManualClock()
        self.machinery = HandMachinery()
        state = stored or StoredState("secret")
        self.supervision = Supervision(Share(num_workers, 2), state, self.machinery, self.clock)

    def settle(self) -> None:
        for _ in range(100):
            if isinstance(self.supervision.step(), Rest) or self.machinery.has_exited:
                return
        raise AssertionError("it does not come to rest")

    def live(self, seconds: float) -> None:
        """Let time pass with a step every second or so, as the supervisor's ticks do."""
        while seconds > 0:
            self.clock.advance(min(1.0, seconds))
            self.supervision.step()
            seconds -= 1.0

    def all_ready(self) -> None:
        self.settle()
        for index, incarnation in sorted(self.machinery.workers):
            self.supervision.worker_ready(member(index, incarnation))
        self.settle()

    def members(self) -> list[tuple[int, int]]:
        membership = self.supervision.membership
        assert membership is not None
        return [(each.index, each.incarnation) for each in membership.members]


def member(index: int, incarnation: int) -> Member:
    return Member(f"worker-{index}", index, incarnation, f"127.0.0.1:{1000 * incarnation + index}", "f1")
