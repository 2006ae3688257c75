"""Live moves as a state machine: load, publish, wait, drop; and nothing left of a plan that was interrupted."""

import random
from dataclasses import replace

import numpy as np
import pytest

from cluster.experts.placement import Placement, with_spare_copies
from cluster.experts.traffic import TrafficReport
from cluster.live_placement import LEASE_S, ORDER_TIMEOUT_S, RETRY_S, shares_by_worker
from cluster.moves import DropExperts, LoadExperts, Order
from tests.cluster.experts.hand import names
from tests.cluster.live_rig import FIRST, POLICY, SWAPPED, rig_at_rest


def test_a_move_loads_publishes_waits_and_drops() -> None:
    rig = rig_at_rest()
    rig.live.propose(SWAPPED)
    assert rig.settle() == ["LoadExperts", "LoadExperts", "PublishPlacement"]
    assert rig.live.placement == SWAPPED
    assert rig.held == {(0, 1): {(0, 0), (0, 1), (0, 2)}, (1, 1): {(0, 2), (0, 3), (0, 1)}}
    rig.report()
    assert rig.settle() == [], "a step under way may still go by the old placement"
    rig.attention_epoch = 4
    rig.report()
    assert rig.settle() == ["DropExperts", "DropExperts"]
    rig.check_clean()
    assert rig.live.num_loads == 2


def test_an_attention_process_that_fell_silent_holds_up_no_drop_for_ever() -> None:
    rig = rig_at_rest()
    rig.report()
    rig.live.propose(SWAPPED)
    rig.settle()
    rig.now_s += LEASE_S - 1
    assert rig.settle() == []
    rig.now_s += 2
    assert rig.settle() == ["DropExperts", "DropExperts"]
    rig.check_clean()


def test_a_worker_that_dies_before_the_publication_undoes_the_plan() -> None:
    rig = rig_at_rest()
    rig.live.propose(SWAPPED)
    rig.do(rig.step())
    del rig.held[1, 1]
    assert rig.settle() == []
    assert rig.live.placement == FIRST
    rig.held[1, 2] = shares_by_worker(FIRST)[1]
    rig.report()
    assert rig.settle() == ["LoadExperts", "DropExperts"]
    rig.check_clean()


def test_a_worker_that_dies_after_the_publication_comes_back_with_the_new_share() -> None:
    rig = rig_at_rest()
    rig.live.propose(SWAPPED)
    rig.settle()
    del rig.held[0, 1]
    rig.settle()
    rig.held[0, 2] = shares_by_worker(SWAPPED)[0]
    rig.attention_epoch = 5
    rig.report()
    assert rig.settle() == ["LoadExperts", "DropExperts"]
    assert rig.live.placement == SWAPPED
    rig.check_clean()


def test_a_load_that_fails_undoes_the_plan_and_is_not_hurried() -> None:
    rig = rig_at_rest()
    rig.live.propose(SWAPPED)
    order = rig.step()
    assert isinstance(order, LoadExperts)
    rig.live.failed(order, rig.now_s)
    rig.report()
    assert rig.settle() == []
    rig.now_s += RETRY_S
    assert rig.settle() == ["LoadExperts"]
    rig.check_clean()
    assert rig.live.placement == FIRST


def test_a_worker_that_hangs_makes_the_plan_fail_and_is_seen() -> None:
    rig = rig_at_rest(policy=POLICY)
    rig.live.propose(SWAPPED)
    hung = rig.step()
    assert isinstance(hung, LoadExperts)
    rig.settle()
    rig.now_s += ORDER_TIMEOUT_S + 1
    assert rig.settle() == ["DropExperts"], "the other worker forgets what it has loaded"
    assert rig.live.placement == FIRST
    assert not rig.live.is_stalled(rig.now_s)
    rig.now_s += 3 * POLICY.interval_s
    assert rig.live.is_stalled(rig.now_s), "no round has ended since"
    rig.do(hung)
    rig.report()
    assert "DropExperts" in rig.settle()
    rig.check_clean()
    rig.now_s += POLICY.interval_s
    rig.settle()
    assert not rig.live.is_stalled(rig.now_s)


def test_answers_of_an_older_incarnation_change_nothing() -> None:
    rig = rig_at_rest()
    rig.live.propose(SWAPPED)
    order = rig.step()
    assert isinstance(order, LoadExperts)
    del rig.held[0, 1]
    rig.held[0, 2] = shares_by_worker(FIRST)[0]
    rig.settle()
    rig.live.done(order, frozenset())
    rig.live.failed(order, rig.now_s)
    assert rig.settle() == []
    rig.check_clean()


def test_rounds_follow_the_traffic_and_say_how_even_it_was() -> None:
    rig = rig_at_rest(policy=POLICY)
    uneven = np.array([[4000.0, 3000.0, 2000.0, 1000.0]])
    rig.report(uneven)
    assert rig.settle() == [], "the first round is due after the interval"
    rig.now_s += POLICY.interval_s
    rig.report(uneven)
    assert rig.settle() == ["PlanMoves", "LoadExperts", "LoadExperts", "PublishPlacement"]
    assert rig.live.imbalance == pytest.approx(1.4)
    rig.attention_epoch = rig.epoch
    rig.report(uneven)
    assert rig.settle() == ["DropExperts", "DropExperts"]
    rig.now_s += POLICY.interval_s
    rig.report(uneven)
    assert rig.settle() == ["PlanMoves"], "it is even now"
    assert rig.live.imbalance == pytest.approx(1.0)
    rig.check_clean()


def test_imbalance_is_measured_by_what_was_sent_between_two_rounds() -> None:
    """Worker 0 was sent 30 of 40 pairs meanwhile: 30 over a mean of 20."""
    rig = rig_at_rest(policy=POLICY)
    for sent in ({"worker-0": 100, "worker-1": 5}, {"worker-0": 130, "worker-1": 15}):
        rig.now_s += POLICY.interval_s
        rig.live.note_traffic("attention", TrafficReport(np.full((1, 4), 1000.0), 3, sent), rig.now_s)
        assert rig.settle() == ["PlanMoves"]
    assert rig.live.measured_imbalance == pytest.approx(1.5)


def test_little_traffic_is_looked_at_and_moves_nothing() -> None:
    rig = rig_at_rest(policy=POLICY)
    rig.now_s += 2 * POLICY.interval_s
    rig.report(np.array([[400.0, 300.0, 200.0, 100.0]]))
    assert rig.settle() == []
    assert rig.live.round_age_s(rig.now_s) == 0


def test_a_policy_that_is_off_never_plans() -> None:
    rig = rig_at_rest()
    rig.now_s += 1000
    rig.report(np.array([[4000.0, 3000.0, 2000.0, 1000.0]]))
    assert rig.settle() == []
    assert not rig.live.is_stalled(rig.now_s)


@pytest.mark.parametrize("seed", range(40))
def test_whatever_happens_the_published_experts_are_there_and_in_the_end_no_others(seed: int) -> None:
    """Deaths, failures, late answers and new plans at random; workers that come back load what was published.

    In every second history survivors take over what nobody holds.
    """
    chance = random.Random(seed)
    first = with_spare_copies(Placement.uniform(2, 8, names(3), 1), 1)
    rig = rig_at_rest(placement=first, policy=replace(POLICY, max_rescued_experts=100 * (seed % 2)))
    waiting: list[Order] = []
    incarnations = {0: 1, 1: 1, 2: 1}
    for _ in range(300):
        rig.now_s += chance.choice([0.0, 0.5, 3.0])
        rig.attention_epoch = rig.epoch - (chance.random() < 0.3)
        rig.report(np.array([[chance.random() * 4000 + 500 for _ in range(8)] for _ in range(2)]))
        action = rig.step()
        if isinstance(action, LoadExperts | DropExperts):
            waiting.append(action)
        else:
            rig.do(action)
        if waiting and chance.random() < 0.6:
            order = waiting.pop(chance.randrange(len(waiting)))
            if (order.index, order.incarnation) not in rig.held or chance.random() < 0.1:
                rig.live.failed(order, rig.now_s)
            else:
                rig.do(order)
        if chance.random() < 0.03 and len(rig.held) == 3:
            index = chance.randrange(3)
            del rig.held[index, incarnations[index]]
        elif len(rig.held) < 3 and chance.random() < 0.3:
            (index,) = {0, 1, 2} - {index for index, _ in rig.held}
            incarnations[index] += 1
            rig.held[index, incarnations[index]] = shares_by_worker(rig.live.placement)[index]
        rig.check_held(rig.live.placement)
    for order in waiting:
        rig.live.failed(order, rig.now_s)
    for index in {0, 1, 2} - {index for index, _ in rig.held}:
        rig.held[index, incarnations[index] + 1] = shares_by_worker(rig.live.placement)[index]
    for _ in range(10):
        rig.now_s += RETRY_S
        rig.attention_epoch = rig.epoch
        rig.report()
        rig.settle()
    assert rig.epoch > first.epoch, "nothing was ever moved"
    assert rig.live.num_rescued == 0
    rig.check_clean()
