"""Workers join and leave: they get a share once they are there, and go when nobody asks them any more."""

from dataclasses import replace

import numpy as np

from cluster.experts.first_placement import Share
from cluster.experts.placement import Placement
from cluster.experts.traffic import TrafficReport
from cluster.live_placement import LEASE_S, LivePlacement
from cluster.moves import LoadExperts, PublishPlacement
from tests.cluster.live_rig import FIRST, OFF, POLICY, Rig, rig_at_rest

NONE, ONE, TWO, THREE = Share(0, 1), Share(1, 1), Share(2, 1), Share(3, 1)
FOUR = Share(4, 1)


def follow(rig: Rig) -> None:
    """Let attention use the newest placement, and say so."""
    rig.attention_epoch = rig.epoch
    rig.report()


def test_nothing_moves_until_all_newcomers_are_there() -> None:
    rig = rig_at_rest()
    rig.live.resize(FOUR)
    rig.held[2, 1] = frozenset()
    assert rig.settle() == []
    rig.held[3, 1] = frozenset()
    assert rig.settle() == ["LoadExperts"] * 2 + ["PublishPlacement"], "only the newcomers load anything"
    assert rig.live.placement.workers == ("worker-0", "worker-1", "worker-2", "worker-3")
    follow(rig)
    assert rig.settle() == ["DropExperts"] * 2
    rig.check_clean()


def test_who_leaves_is_kept_until_nobody_asks_it() -> None:
    rig = rig_at_rest()
    rig.live.resize(ONE)
    assert rig.settle() == ["LoadExperts", "PublishPlacement"]
    assert rig.live.placement == Placement.uniform(1, 4, ["worker-0"], epoch=rig.epoch)
    rig.report()
    assert rig.settle() == []
    assert rig.live.num_kept == 2, "attention still goes by the older placement"
    follow(rig)
    assert rig.settle() == [], "what leaves need not forget its experts first"
    assert rig.live.num_kept == 1
    del rig.held[1, 1]
    assert rig.settle() == []
    rig.check_clean()


def test_after_a_restart_whoever_was_made_is_kept_until_nobody_asks_it() -> None:
    live = LivePlacement(FIRST, OFF, 100.0, num_made=4)
    ready = {0: 1, 1: 1, 2: 1}

    def kept_after(epoch: int, now_s: float) -> int:
        live.note_traffic("attention", TrafficReport(np.zeros((1, 4)), epoch), now_s)
        live.step(ready, now_s)
        return live.num_kept

    assert live.num_kept == 4
    assert kept_after(FIRST.epoch - 1, 101.0) == 4, "attention still goes by the placement that had them"
    assert kept_after(FIRST.epoch, 102.0) == 2


def test_without_attention_who_leaves_is_kept_for_a_while() -> None:
    rig = rig_at_rest()
    rig.live.resize(ONE)
    rig.settle()
    rig.now_s += LEASE_S - 1
    rig.settle()
    assert rig.live.num_kept == 2
    rig.now_s += 1
    rig.settle()
    assert rig.live.num_kept == 1


def test_a_lost_worker_need_not_come_back_to_leave() -> None:
    rig = rig_at_rest()
    del rig.held[1, 1]
    rig.live.resize(ONE)
    assert rig.settle() == ["LoadExperts", "PublishPlacement"]
    assert rig.live.placement.workers == ("worker-0",)


def test_a_newcomer_that_dies_while_it_loads_changes_nothing() -> None:
    rig = rig_at_rest()
    rig.live.resize(THREE)
    rig.held[2, 1] = frozenset()
    load = rig.step()
    assert isinstance(load, LoadExperts)
    del rig.held[2, 1]
    assert rig.settle() == []
    assert rig.live.placement == FIRST
    rig.held[2, 2] = frozenset()
    assert rig.settle()[-1] == "PublishPlacement"


def test_a_change_of_mind_before_all_is_loaded_moves_nothing() -> None:
    rig = rig_at_rest()
    rig.live.resize(THREE)
    rig.held[2, 1] = frozenset()
    load = rig.step()
    assert isinstance(load, LoadExperts)
    rig.live.resize(TWO)
    rig.do(load)
    assert rig.settle() == []
    assert rig.live.placement == FIRST
    assert rig.live.num_kept == 2, "the newcomer may go"


def test_a_worker_that_hangs_on_its_way_out_holds_up_nothing() -> None:
    """What leaves is asked for nothing, not even for what it holds."""
    rig = Rig()
    rig.live.resize(ONE)
    asked = rig.step()
    assert isinstance(asked, LoadExperts)
    assert asked.index == 0
    rig.do(asked)
    assert isinstance(rig.step(), PublishPlacement)


def test_who_stands_in_for_others_takes_part_in_a_resize() -> None:
    rig = rig_at_rest(policy=replace(OFF, max_rescued_experts=9))
    del rig.held[1, 1]
    rig.settle()
    assert rig.live.num_rescued == 2
    rig.live.resize(ONE)
    assert rig.settle() == ["PublishPlacement"], "it has everything already"
    assert rig.live.num_rescued == 0
    assert rig.live.placement.workers == ("worker-0",)


def test_newcomers_are_no_rescuers_before_they_have_a_share() -> None:
    rig = rig_at_rest(policy=replace(OFF, max_rescued_experts=9))
    rig.live.resize(THREE)
    rig.held[2, 1] = frozenset()
    del rig.held[1, 1]
    assert "PublishPlacement" in rig.settle()
    assert rig.live.placement.workers == FIRST.workers


def test_traffic_is_balanced_again_after_a_resize() -> None:
    rig = rig_at_rest(policy=POLICY)
    rig.live.resize(THREE)
    rig.held[2, 1] = frozenset()
    rig.settle()
    follow(rig)
    rig.settle()
    rig.now_s += POLICY.interval_s
    assert rig.live.round_age_s(rig.now_s) >= POLICY.interval_s
    rig.report(pairs=np.array([[4000.0, 4000.0, 100.0, 100.0]]))
    assert "PlanMoves" in rig.settle()


def test_all_come_beside_attention_once_it_holds_them() -> None:
    rig = rig_at_rest()
    rig.live.resize(NONE)
    rig.report()
    assert rig.settle() == [], "attention does not hold them yet"
    rig.has_all = True
    rig.report()
    assert rig.settle() == ["PublishPlacement"]
    assert rig.live.placement.is_collapsed
    assert rig.live.num_kept == 2, "attention still goes by the older placement"
    follow(rig)
    assert rig.settle() == []
    assert rig.live.num_kept == 0


def test_one_attention_process_without_all_experts_keeps_them_on_workers() -> None:
    rig = rig_at_rest()
    rig.live.resize(NONE)
    rig.has_all = True
    rig.report()
    rig.live.note_traffic("another", TrafficReport(np.zeros((1, 4)), 3), rig.now_s)
    assert rig.settle() == []
    rig.now_s += LEASE_S
    rig.report()
    assert rig.settle() == ["PublishPlacement"], "it has been silent for too long to be waited for"


def test_experts_go_from_attention_to_workers_again() -> None:
    rig = rig_at_rest()
    rig.live.resize(NONE)
    rig.has_all = True
    rig.report()
    rig.settle()
    rig.held.clear()
    rig.live.resize(TWO)
    assert rig.settle() == []
    rig.held = {(0, 2): frozenset(), (1, 2): frozenset()}
    assert rig.settle() == ["LoadExperts"] * 2 + ["PublishPlacement"]
    assert rig.live.placement.workers == FIRST.workers
    follow(rig)
    rig.settle()
    rig.check_clean()


def test_collapsed_experts_are_not_balanced() -> None:
    rig = rig_at_rest(policy=POLICY)
    rig.live.resize(NONE)
    rig.has_all = True
    rig.report()
    rig.settle()
    rig.now_s += 100.0
    rig.report(pairs=np.full((1, 4), 5000.0))
    assert rig.settle() == []


def test_why_experts_cannot_be_beside_attention_is_known_while_it_is_heard_of() -> None:
    rig = rig_at_rest()
    rig.obstacle = "too large"
    rig.report()
    assert rig.live.obstacles(rig.now_s) == ["attention: too large"]
    assert rig.live.obstacles(rig.now_s + LEASE_S + 1) == []
