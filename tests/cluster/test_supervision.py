"""The supervisor without Ray: what it stores, makes, publishes and gives up, with a hand-made machinery and clock."""

import random
from dataclasses import replace

import pytest

from cluster.stored_state import StoredState
from cluster.supervision import APPLICATION_GRACE_S, LEAVE_TIMEOUT_S, retry_delay_s
from tests.cluster.supervision_rig import Rig, member


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


def test_an_application_that_was_deleted_meanwhile_is_known_to_have_been_there() -> None:
    """Otherwise workers would hold their memory for ever once the supervisor has died at the wrong moment."""
    before = Rig()
    before.all_ready()
    before.supervision.note_application(is_up=True)
    rig = Rig(stored=before.machinery.stored)
    rig.live(APPLICATION_GRACE_S + 1)
    rig.settle()
    assert not rig.machinery.has_exited, "nobody has said that it is gone"
    rig.supervision.note_application(is_up=False)
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
