"""The supervisor's next action: each rule alone, and convergence from any state."""

import random
from dataclasses import dataclass, field

import pytest

from cluster.reconcile import (
    Action,
    CreateWorker,
    Desired,
    Exit,
    Members,
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

READY, STARTING, LOST = WorkerState.READY, WorkerState.STARTING, WorkerState.LOST
TWO = Desired(is_wanted=True, num_workers=2)
GONE = Desired(is_wanted=False, num_workers=2)


def workers(*states: WorkerState) -> tuple[WorkerView, ...]:
    return tuple(WorkerView(index, 1, state) for index, state in enumerate(states))


def test_missing_workers_are_made_one_by_one() -> None:
    assert reconcile(TWO, Observed()) == CreateWorker(0, 1)
    assert reconcile(TWO, Observed(workers=workers(STARTING))) == CreateWorker(1, 1)
    assert reconcile(TWO, Observed(workers=workers(STARTING, STARTING))) == Rest()


def test_the_first_placement_waits_for_all_workers() -> None:
    assert reconcile(TWO, Observed(workers=workers(READY, STARTING))) == Rest()
    assert reconcile(TWO, Observed(workers=workers(READY, READY))) == Publish(((0, 1), (1, 1)))


def test_a_placement_without_workers_is_published_at_once() -> None:
    assert reconcile(Desired(True, 0), Observed()) == Publish(())
    assert reconcile(Desired(True, 0), Observed(published=())) == Rest()


def test_a_lost_worker_is_removed_then_left_out_then_made_anew_as_a_new_incarnation() -> None:
    both: Members = ((0, 1), (1, 1))
    lost = Observed(workers=workers(READY, LOST), published=both, last_incarnations=(1, 1))
    assert reconcile(TWO, lost) == RemoveWorker(1, 1)
    removed = Observed(workers=workers(READY), published=both, last_incarnations=(1, 1))
    assert reconcile(TWO, removed) == Publish(((0, 1),))
    without = Observed(workers=workers(READY), published=((0, 1),), last_incarnations=(1, 1))
    assert reconcile(TWO, without) == CreateWorker(1, 2)


def test_a_worker_that_keeps_failing_is_left_alone_for_a_while() -> None:
    resting = (WorkerView(0, 1, READY), WorkerView(1, 4, LOST, may_retry=False))
    assert reconcile(TWO, Observed(workers=resting, published=((0, 1),))) == Rest()


def test_older_revisions_go_before_anything_new_comes() -> None:
    assert reconcile(TWO, Observed(older_actors=("a", "b"))) == StopOlder("a")


def test_an_unwanted_application_goes_before_its_workers() -> None:
    observed = Observed(workers=workers(READY), is_application_up=True)
    assert reconcile(GONE, observed) == TakeDownApplication()
    leaving = Observed(workers=workers(READY), is_application_up=True, is_application_leaving=True)
    assert reconcile(GONE, leaving) == Rest(), "it keeps its workers until it has gone"
    assert reconcile(GONE, Observed(workers=workers(READY))) == RemoveWorker(0, 1)
    assert reconcile(GONE, Observed()) == Exit()


@dataclass
class World:
    """A cluster without processes: actions take effect at once, workers become ready or die by chance."""

    generator: random.Random
    workers: dict[tuple[int, int], WorkerState] = field(default_factory=dict[tuple[int, int], WorkerState])
    older: list[str] = field(default_factory=list[str])
    published: Members | None = None
    made: dict[int, int] = field(default_factory=dict[int, int])
    is_application_up: bool = True
    is_application_leaving: bool = False
    has_exited: bool = False
    created: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])

    @classmethod
    def any(cls, seed: int) -> "World":
        """Return a state that nobody planned: strangers, duplicates, gaps, stale publications."""
        generator = random.Random(seed)
        world = cls(generator)
        for _ in range(generator.randrange(8)):
            key = generator.randrange(6), generator.randrange(1, 4)
            world.workers[key] = generator.choice(list(WorkerState))
            world.made[key[0]] = max(world.made.get(key[0], 0), key[1])
        world.older = [f"older-{index}" for index in range(generator.randrange(3))]
        if generator.random() < 0.5:
            world.published = tuple(sorted(generator.sample([(0, 1), (1, 2), (3, 1)], generator.randrange(4))))
        return world

    def observe(self) -> Observed:
        last = tuple(self.made.get(index, 0) for index in range(6))
        views = tuple(WorkerView(*key, state) for key, state in sorted(self.workers.items()))
        is_up, is_leaving = self.is_application_up, self.is_application_leaving
        return Observed(views, tuple(self.older), self.published, last, is_up, is_leaving)

    def apply(self, action: Action) -> None:
        match action:
            case StopOlder(name):
                self.older.remove(name)
            case CreateWorker(index, incarnation):
                assert incarnation > self.made.get(index, 0), "an incarnation came twice"
                self.made[index] = incarnation
                self.workers[index, incarnation] = STARTING
                self.created.append((index, incarnation))
            case RemoveWorker(index, incarnation):
                del self.workers[index, incarnation]
            case Publish(members):
                self.published = members
            case TakeDownApplication():
                self.is_application_leaving = True
            case Exit():
                self.has_exited = True
            case Rest():
                pass

    def time_passes(self) -> None:
        self.is_application_up = self.is_application_up and not self.is_application_leaving
        for key, state in self.workers.items():
            if state is STARTING:
                self.workers[key] = READY

    def misfortune(self) -> None:
        for key in self.workers:
            if self.generator.random() < 0.3:
                self.workers[key] = LOST


def run_until_rest(world: World, desired: Desired) -> int:
    """Carry actions out until nothing is left to do; return how many it took."""
    for count in range(200):
        action = reconcile(desired, world.observe())
        if isinstance(action, Rest):
            world.time_passes()
            if isinstance(reconcile(desired, world.observe()), Rest):
                return count
        world.apply(action)
        if world.has_exited:
            return count
    raise AssertionError("it does not converge")


@pytest.mark.parametrize("seed", range(200))
def test_any_state_converges_to_ready_workers_and_a_placement_of_them(seed: int) -> None:
    world = World.any(seed)
    desired = Desired(is_wanted=True, num_workers=seed % 5)
    for _ in range(4):
        run_until_rest(world, desired)
        members = tuple((index, world.made[index]) for index in range(desired.num_workers))
        assert world.workers == dict.fromkeys(members, READY)
        assert world.published == members
        assert world.older == []
        world.misfortune()


@pytest.mark.parametrize("seed", range(100))
def test_any_unwanted_state_ends_with_nothing_left(seed: int) -> None:
    world = World.any(seed)
    run_until_rest(world, Desired(is_wanted=False, num_workers=3))
    assert world.has_exited
    assert world.workers == {}
    assert not world.is_application_up
    assert world.created == []


def test_what_is_as_it_should_be_is_left_alone() -> None:
    observed = Observed(workers=workers(READY, READY), published=((0, 1), (1, 1)), is_application_up=True)
    assert reconcile(TWO, observed) == Rest()
