"""How a supervisor without Ray gets more workers, fewer, or none."""

import re
from dataclasses import replace

import numpy as np
import pytest

from cluster.errors import PlacementError
from cluster.experts.traffic import TrafficReport
from tests.cluster.supervision_rig import Rig, member


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
