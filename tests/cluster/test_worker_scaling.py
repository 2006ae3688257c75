"""How many workers the load asks for, and when."""

import pytest
from pydantic import ValidationError

from cluster.config import ExpertsSection, WorkerScalingSection
from cluster.worker_scaling import WorkerScaling

SECTION = WorkerScalingSection(
    min_workers=0, max_workers=6, target_sequences=10.0, upscale_delay_s=3.0, downscale_delay_s=60.0
)


@pytest.mark.parametrize(("num_sequences", "needed"), [(0, 0), (1, 2), (20, 2), (21, 3), (1000, 6)])
def test_sequences_need_workers_within_the_limits_and_at_least_one_for_each_copy(num_sequences: int, needed: int):
    assert WorkerScaling(SECTION, copies=2).needed(num_sequences) == needed


def test_without_sequences_the_fewest_workers_stay() -> None:
    assert WorkerScaling(SECTION.model_copy(update={"min_workers": 3}), copies=1).needed(0) == 3


def test_load_must_last_before_workers_join_and_the_least_of_it_counts() -> None:
    scaling = WorkerScaling(SECTION, copies=1)
    assert scaling.wanted(50, 2, 10.0) is None
    assert scaling.wanted(35, 2, 12.0) is None
    assert scaling.wanted(60, 2, 13.0) == 4


def test_calm_must_last_before_workers_leave_and_the_most_of_it_counts() -> None:
    scaling = WorkerScaling(SECTION, copies=1)
    assert scaling.wanted(0, 5, 0.0) is None
    assert scaling.wanted(25, 5, 30.0) is None
    assert scaling.wanted(0, 5, 60.0) == 3


def test_a_break_begins_the_wait_anew() -> None:
    scaling = WorkerScaling(SECTION, copies=1)
    assert scaling.wanted(50, 2, 0.0) is None
    assert scaling.wanted(20, 2, 2.0) is None
    assert scaling.wanted(50, 2, 2.5) is None
    assert scaling.wanted(5, 2, 4.0) is None, "fewer now"
    assert scaling.wanted(50, 2, 5.0) is None
    assert scaling.wanted(50, 2, 8.0) == 5


def test_what_was_refused_is_asked_for_again_after_another_wait() -> None:
    scaling = WorkerScaling(SECTION, copies=1)
    scaling.wanted(0, 2, 0.0)
    assert scaling.wanted(0, 2, 60.0) == 0
    assert scaling.wanted(0, 2, 61.0) is None
    assert scaling.wanted(0, 2, 121.0) == 0


def test_limits_that_no_number_of_workers_keeps_are_refused() -> None:
    with pytest.raises(ValidationError, match="max_workers is 1; it must be at least copies, which is 2"):
        ExpertsSection(copies=2, scaling=WorkerScalingSection(max_workers=1))
