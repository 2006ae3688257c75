"""The supervisor without Ray: what it stores, makes, publishes and gives up, with a hand-made machinery and clock."""

import random
import re
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from cluster.clock import ManualClock
from cluster.cluster_status import Member
from cluster.errors import PlacementError
from cluster.experts.first_placement import Share
from cluster.experts.traffic import TrafficReport
from cluster.moves import Order, PlanMoves
from cluster.reconcile import Rest
from cluster.stored_state import StoredState
from cluster.supervision import APPLICATION_GRACE_S, LEAVE_TIMEOUT_S, Supervision, retry_delay_s


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


def test_workers_are_made_and_published_when_all_are_ready() -> None:
    rig = Rig()
    rig.settle()
    assert rig.machinery.workers == {(0, 1), (1, 1)}
    rig.supervision.worker_ready(member(0, 1))
    rig.settle()
    assert rig.supervision.membership is None
    rig.supervision.worker_ready(member(1, 1))
    rig.settle()
    assert rig.members() == [(0, 1), (1, 1)]
    assert rig.supervision.membership is not None
    assert rig.supervision.membership.epoch == 0


def test_a_dead_worker_leaves_the_membership_and_comes_back_as_a_new_incarnation() -> None:
    rig = Rig()
    rig.all_ready()
    rig.supervision.worker_lost(1, 1)
    rig.settle()
    assert rig.members() == [(0, 1)]
    assert rig.machinery.workers == {(0, 1), (1, 2)}
    rig.supervision.worker_ready(member(1, 2))
    rig.settle()
    assert rig.members() == [(0, 1), (1, 2)]
    assert rig.supervision.stored.epoch == 2


def test_news_of_an_older_incarnation_change_nothing() -> None:
    rig = Rig()
    rig.all_ready()
    rig.supervision.worker_lost(1, 1)
    rig.settle()
    rig.supervision.worker_ready(member(1, 1))
    rig.supervision.worker_lost(1, 1)
    rig.settle()
    assert rig.machinery.workers == {(0, 1), (1, 2)}
    assert rig.members() == [(0, 1)]


def test_a_worker_that_fails_again_and_again_is_made_ever_more_rarely() -> None:
    assert [retry_delay_s(n) for n in range(9)] == [0, 0, 1, 2, 4, 8, 16, 32, 60]
    rig = Rig(num_workers=1)
    rig.settle()
    for incarnation in range(1, 4):
        rig.supervision.worker_lost(0, incarnation)
        rig.clock.advance(retry_delay_s(incarnation))
        rig.settle()
    assert len(rig.machinery.ever_made) == 4
    rig.supervision.worker_lost(0, 4)
    rig.clock.advance(retry_delay_s(4) - 0.1)
    rig.settle()
    assert len(rig.machinery.ever_made) == 4
    rig.clock.advance(0.2)
    rig.settle()
    assert rig.machinery.workers == {(0, 5)}


def test_a_supervisor_that_starts_anew_goes_on_where_it_was() -> None:
    first = Rig()
    first.all_ready()
    first.supervision.worker_lost(0, 1)
    first.settle()
    second = Rig(stored=first.machinery.stored)
    second.supervision.adopt(0, 2)
    second.settle()
    assert second.machinery.ever_made == [(1, 2)], "worker 0 was adopted, worker 1 has died meanwhile"
    second.supervision.worker_ready(member(0, 2))
    second.supervision.worker_ready(member(1, 2))
    second.settle()
    assert second.supervision.stored.epoch > first.supervision.stored.epoch
    assert second.supervision.stored.secret == first.supervision.stored.secret


def test_an_owner_that_falls_silent_takes_everything_with_it() -> None:
    rig = Rig()
    rig.supervision.renew_lease(10)
    rig.all_ready()
    rig.supervision.note_application(is_up=True)
    rig.live(9)
    rig.supervision.renew_lease(10)
    rig.live(9)
    rig.settle()
    assert not rig.machinery.has_exited
    rig.live(2)
    rig.settle()
    assert rig.machinery.is_application_leaving
    assert rig.machinery.workers, "the application needs its workers until it has gone"
    rig.supervision.note_application(is_up=False)
    rig.settle()
    assert rig.machinery.has_exited
    assert rig.machinery.workers == set()
    assert rig.machinery.stored is not None
    assert not rig.machinery.stored.is_wanted


def test_a_machine_that_stood_still_takes_nothing_down() -> None:
    """A suspended laptop, a frozen virtual machine: the owner could not speak either."""
    rig = Rig()
    rig.supervision.renew_lease(10)
    rig.all_ready()
    rig.supervision.note_application(is_up=True)
    rig.supervision.note_application(is_up=False)
    rig.live(8)
    rig.clock.advance(3600)
    rig.live(1)
    assert not rig.machinery.is_application_leaving
    rig.supervision.note_application(is_up=True)
    rig.live(3)
    assert rig.machinery.is_application_leaving, "and then it is silent for longer than it may"


def test_an_application_that_does_not_go_is_not_waited_for_without_end() -> None:
    rig = Rig()
    rig.all_ready()
    rig.supervision.note_application(is_up=True)
    rig.supervision.abandon()
    rig.settle()
    assert not rig.machinery.has_exited
    rig.clock.advance(LEAVE_TIMEOUT_S + 1)
    rig.settle()
    assert rig.machinery.has_exited


def test_a_restarted_supervisor_remembers_that_it_has_an_owner() -> None:
    first = Rig()
    first.supervision.renew_lease(10)
    second = Rig(stored=first.machinery.stored)
    second.settle()
    second.live(11)
    second.settle()
    assert second.machinery.has_exited


def test_without_an_owner_nothing_ever_lapses() -> None:
    rig = Rig()
    rig.all_ready()
    rig.clock.advance(1e9)
    rig.settle()
    assert not rig.machinery.has_exited


def test_a_deleted_application_takes_its_workers_with_it_after_a_grace() -> None:
    rig = Rig()
    rig.all_ready()
    rig.supervision.note_application(is_up=False)
    rig.live(APPLICATION_GRACE_S + 1)
    rig.settle()
    assert not rig.machinery.has_exited, "it has not been there yet"
    rig.supervision.note_application(is_up=True)
    rig.supervision.note_application(is_up=False)
    rig.live(APPLICATION_GRACE_S - 1)
    rig.settle()
    assert not rig.machinery.has_exited, "it may be redeployed just now"
    rig.live(2)
    rig.settle()
    assert rig.machinery.has_exited


def test_a_deleted_application_keeps_its_workers_while_a_replica_ends_what_it_runs() -> None:
    rig = Rig()
    rig.all_ready()
    rig.supervision.note_application(is_up=True)
    for _ in range(4):
        rig.live(APPLICATION_GRACE_S - 1)
        rig.supervision.note_application(is_up=False, is_attended=True)
        rig.settle()
        assert not rig.machinery.has_exited
    rig.supervision.note_application(is_up=False)
    rig.live(APPLICATION_GRACE_S + 1)
    rig.settle()
    assert rig.machinery.has_exited


def test_actors_of_older_revisions_are_stopped_first() -> None:
    rig = Rig()
    rig.supervision.note_older(["old supervisor", "old worker"])
    rig.settle()
    assert rig.machinery.stopped == ["old supervisor", "old worker"]
    assert rig.machinery.workers == {(0, 1), (1, 1)}


@pytest.mark.parametrize("seed", range(60))
def test_through_any_history_workers_are_the_newest_incarnations_and_epochs_rise(seed: int) -> None:
    generator = random.Random(seed)
    rig = Rig(num_workers=3)
    epochs = [-1]
    for _ in range(60):
        event = generator.randrange(5)
        alive = sorted(rig.machinery.workers)
        if event == 0 and alive:
            rig.supervision.worker_lost(*generator.choice(alive))
        elif event == 1 and alive:
            rig.supervision.worker_ready(member(*generator.choice(alive)))
        elif event == 2:
            rig.clock.advance(generator.random() * 10)
        elif event == 3 and generator.random() < 0.2 and rig.machinery.stored is not None:
            survivors = set(rig.machinery.workers)
            clock, rig = rig.clock, Rig(num_workers=3, stored=rig.machinery.stored)
            rig.clock.advance(clock.now_s())
            rig.machinery.workers = survivors
            for index, incarnation in survivors:
                rig.supervision.adopt(index, incarnation)
        else:
            rig.settle()
        epochs.append(rig.supervision.stored.epoch)
        assert len(set(rig.machinery.ever_made)) == len(rig.machinery.ever_made), "an incarnation was made twice"
    assert epochs == sorted(epochs)
    rig.clock.advance(100)
    rig.all_ready()
    assert rig.members() == sorted(rig.machinery.workers)
    assert [index for index, _ in rig.members()] == [0, 1, 2]


def test_a_worker_whose_numerics_differ_from_the_first_ones_is_made_anew_and_never_published() -> None:
    rig = Rig()
    rig.settle()
    assert rig.supervision.worker_ready(member(0, 1)) is None
    refusal = rig.supervision.worker_ready(replace(member(1, 1), fingerprint="f2"))
    assert refusal == "its numerics fingerprint is f2, the other workers' is f1"
    rig.settle()
    assert rig.supervision.membership is None
    assert rig.machinery.workers == {(0, 1), (1, 2)}
    assert rig.supervision.worker_ready(member(1, 2)) is None
    rig.settle()
    assert rig.members() == [(0, 1), (1, 2)]


def test_a_replacement_must_compute_like_the_workers_that_are_left() -> None:
    rig = Rig()
    rig.all_ready()
    rig.supervision.worker_lost(0, 1)
    rig.settle()
    assert rig.supervision.worker_ready(replace(member(0, 2), fingerprint="f2")) is not None
    rig.settle()
    assert rig.members() == [(1, 1)]


def test_once_no_worker_is_left_the_next_ones_may_have_other_hardware() -> None:
    rig = Rig()
    rig.all_ready()
    for index in range(2):
        rig.supervision.worker_lost(index, 1)
    rig.settle()
    assert rig.supervision.worker_ready(replace(member(1, 2), fingerprint="f2")) is None
    refusal = rig.supervision.worker_ready(member(0, 2))
    assert refusal == "its numerics fingerprint is f1, the other workers' is f2"
    rig.settle()
    assert rig.members() == [(1, 2)]
    assert rig.supervision.membership is not None
    assert rig.supervision.membership.worker_fingerprint == "f2"


def test_what_the_workers_compute_outlives_the_supervisor_while_they_live() -> None:
    rig = Rig()
    rig.all_ready()
    stored = StoredState.from_json(rig.supervision.stored.to_json())
    assert stored.worker_fingerprint == "f1"
    again = Rig(stored=stored)
    again.supervision.adopt(0, 1)
    again.settle()
    assert again.machinery.workers == {(1, 2)}
    assert again.supervision.worker_ready(replace(member(1, 2), fingerprint="f2")) is not None
    assert again.supervision.worker_ready(member(0, 1)) is None


def test_more_workers_are_made_when_they_are_asked_for_and_by_the_next_life_too() -> None:
    rig = Rig()
    rig.all_ready()
    rig.supervision.scale(4)
    rig.all_ready()
    assert rig.members() == [(0, 1), (1, 1), (2, 1), (3, 1)]
    assert rig.machinery.stored is not None
    assert rig.machinery.stored.num_workers == 4
    assert Rig(stored=rig.machinery.stored).supervision.num_workers == 4


def test_fewer_workers_than_copies_are_refused() -> None:
    rig = Rig()
    with pytest.raises(
        PlacementError, match=re.escape("1 workers cannot hold 2 copies of each expert (experts.copies)")
    ):
        rig.supervision.scale(1)
    assert rig.supervision.num_workers == 2


def test_no_worker_goes_before_it_is_known_what_the_others_hold() -> None:
    rig = Rig(num_workers=3)
    rig.all_ready()
    rig.supervision.scale(2)
    rig.settle()
    assert rig.members() == [(0, 1), (1, 1), (2, 1)]


def test_a_worker_on_its_way_out_that_dies_is_not_made_anew() -> None:
    rig = Rig(num_workers=3)
    rig.all_ready()
    rig.supervision.scale(2)
    rig.supervision.worker_lost(2, 1)
    rig.settle()
    assert rig.members() == [(0, 1), (1, 1)]
    assert rig.machinery.workers == {(0, 1), (1, 1)}


def test_experts_go_beside_attention_only_where_it_has_room() -> None:
    rig = Rig()
    rig.all_ready()
    with pytest.raises(PlacementError, match="no attention replica has said yet"):
        rig.supervision.scale(0)
    rig.supervision.note_traffic("attention-a", TrafficReport(np.zeros((1, 4)), 0, obstacle="too little memory"))
    with pytest.raises(PlacementError, match="attention-a: too little memory"):
        rig.supervision.scale(0)
    assert rig.supervision.num_workers == 2
    rig.supervision.note_traffic("attention-a", TrafficReport(np.zeros((1, 4)), 0))
    rig.supervision.scale(0)
    assert rig.supervision.num_workers == 0


def test_attention_is_told_to_load_all_and_when_it_need_not_any_more() -> None:
    rig = Rig()
    rig.all_ready()
    rig.supervision.note_traffic("attention-a", TrafficReport(np.zeros((1, 4)), 0))
    for num_workers, wants_local in ((0, True), (2, False)):
        before = rig.supervision.membership
        assert before is not None
        rig.supervision.scale(num_workers)
        rig.supervision.step()
        assert rig.supervision.membership == replace(before, epoch=before.epoch + 1, wants_local=wants_local)


def test_a_supervisor_made_anew_counts_on_those_who_leave_too() -> None:
    rig = Rig(num_workers=3)
    rig.all_ready()
    rig.supervision.scale(2)
    assert rig.machinery.stored is not None
    again = Rig(num_workers=3, stored=rig.machinery.stored)
    for index in range(3):
        again.supervision.adopt(index, 1)
    for index in range(2):
        again.supervision.worker_ready(member(index, 1))
    again.settle()
    assert again.supervision.membership is None, "the third may be asked for what nobody else has"
    again.supervision.worker_ready(member(2, 1))
    again.settle()
    assert again.members() == [(0, 1), (1, 1), (2, 1)]
