"""Workers are lost with the last copies of experts: others stand in for them, and no longer than needed."""

from dataclasses import replace

import numpy as np

from cluster.experts.placement import Placement
from cluster.live_placement import RETRY_S, LivePlacement, shares_by_worker
from cluster.moves import LoadExperts, PublishPlacement
from tests.cluster.live_rig import FIRST, OFF, POLICY, SWAPPED, rig_at_rest

RESCUE = replace(OFF, max_rescued_experts=9)
STOOD_IN = (((0,), (0,), (1, 0), (1, 0)),)
"""Worker 0 holds in place of worker 1 what was on that alone."""


def test_survivors_load_what_was_on_the_lost_worker_alone_and_forget_it_when_that_is_back() -> None:
    rig = rig_at_rest(policy=RESCUE)
    del rig.held[1, 1]
    assert rig.settle() == ["LoadExperts", "PublishPlacement"]
    assert rig.live.placement.copies == STOOD_IN
    assert (rig.live.num_rescued, rig.live.num_loads) == (2, 2)
    rig.held[1, 2] = shares_by_worker(rig.live.placement)[1]
    rig.attention_epoch = rig.epoch
    rig.report()
    assert rig.settle() == ["LoadExperts", "PublishPlacement"], "it says what it holds, and then is counted on again"
    assert rig.live.placement.copies == FIRST.copies
    assert rig.live.num_rescued == 0
    assert rig.held[0, 1] > shares_by_worker(FIRST)[0], "a step under way may still go by the older placement"
    rig.attention_epoch = rig.epoch
    rig.report()
    assert rig.settle() == ["DropExperts"]
    rig.check_clean()


def test_a_worker_that_is_back_before_its_experts_were_loaded_elsewhere_ends_the_rescue() -> None:
    rig = rig_at_rest(policy=RESCUE)
    del rig.held[1, 1]
    load = rig.step()
    assert isinstance(load, LoadExperts)
    rig.held[1, 2] = shares_by_worker(FIRST)[1]
    rig.settle()
    rig.do(load)
    rig.report()
    assert rig.settle() == ["DropExperts"]
    assert rig.live.placement == FIRST
    rig.check_clean()


def test_a_rescuer_that_is_lost_too_is_rescued_in_turn() -> None:
    first = Placement(3, 1, 6, ("worker-0", "worker-1", "worker-2"), (((0,), (0,), (1,), (1,), (2,), (2,)),))
    rig = rig_at_rest(placement=first, policy=RESCUE)
    for index in (1, 2):
        del rig.held[index, 1]
        assert "PublishPlacement" in rig.settle()
    assert rig.held[0, 1] == {(0, expert) for expert in range(6)}
    for index in (1, 2):
        rig.held[index, 2] = shares_by_worker(rig.live.placement)[index]
        rig.settle()
    for _ in range(2):
        rig.attention_epoch = rig.epoch
        rig.report()
        rig.settle()
    assert rig.live.placement.copies == first.copies
    rig.check_clean()


def test_a_rescue_load_that_fails_falls_to_another_survivor() -> None:
    first = Placement(3, 1, 3, ("worker-0", "worker-1", "worker-2"), (((0,), (1,), (2,)),))
    rig = rig_at_rest(placement=first, policy=RESCUE)
    del rig.held[1, 1]
    order = rig.step()
    assert isinstance(order, LoadExperts)
    assert order.index == 0
    rig.live.failed(order, rig.now_s)
    assert rig.settle() == ["LoadExperts"]
    assert rig.held[2, 1] == {(0, 1), (0, 2)}
    rig.now_s += RETRY_S
    assert rig.settle() == ["LoadExperts", "PublishPlacement"], "what the other holds is known again"
    assert rig.live.placement.copies == (((0,), (1, 2), (2,)),)


def test_nothing_is_balanced_while_somebody_is_away() -> None:
    rig = rig_at_rest(policy=replace(POLICY, max_rescued_experts=9))
    del rig.held[1, 1]
    rig.settle()
    rig.now_s += POLICY.interval_s
    rig.report(np.array([[4000.0, 3000.0, 2000.0, 1000.0]]))
    assert rig.settle() == []


def test_a_plan_that_counts_on_a_lost_worker_makes_way_for_the_rescue() -> None:
    rig = rig_at_rest(policy=RESCUE)
    rig.live.propose(SWAPPED)
    rig.do(rig.step())
    del rig.held[1, 1]
    rig.settle()
    assert rig.live.placement.copies == STOOD_IN
    rig.check_held(rig.live.placement)


def test_what_is_proposed_while_somebody_is_away_is_not_published() -> None:
    rig = rig_at_rest(policy=RESCUE)
    del rig.held[1, 1]
    rig.settle()
    rig.live.propose(SWAPPED)
    assert rig.settle() == []
    assert rig.live.placement.copies == STOOD_IN


def test_a_supervisor_made_anew_during_a_rescue_still_returns_to_the_placement_before() -> None:
    rig = rig_at_rest(policy=RESCUE)
    del rig.held[1, 1]
    rig.do(rig.step())
    publish = rig.step()
    assert isinstance(publish, PublishPlacement)
    assert publish.settled == FIRST
    rig.do(publish)
    rig.live = LivePlacement(rig.live.placement, RESCUE, rig.now_s, publish.settled)
    rig.held[1, 2] = shares_by_worker(rig.live.placement)[1]
    rig.attention_epoch = rig.epoch
    rig.report()
    assert rig.settle() == ["LoadExperts", "LoadExperts", "PublishPlacement"]
    rig.attention_epoch = rig.epoch
    rig.report()
    assert rig.settle() == ["DropExperts"]
    assert rig.live.placement.copies == FIRST.copies
    rig.check_clean()
