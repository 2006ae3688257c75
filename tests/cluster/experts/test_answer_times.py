"""Answer times: estimates worked out by hand."""

import pytest

from cluster.experts.answer_times import AnswerTimes


def test_nothing_is_usual_before_anything_was_learned() -> None:
    assert AnswerTimes().usual_s("a", 4) is None


def test_the_estimate_rises_by_three_tenths_and_falls_by_a_twentieth_of_the_difference() -> None:
    times = AnswerTimes()
    times.note("a", 4, 0.1)
    assert times.usual_s("a", 4) == 0.1
    times.note("a", 4, 0.2)
    assert times.usual_s("a", 4) == pytest.approx(0.13)
    times.note("a", 4, 0.03)
    assert times.usual_s("a", 4) == pytest.approx(0.125)


def test_an_outlier_is_forgotten() -> None:
    times = AnswerTimes()
    times.note("a", 4, 0.001)
    times.note("a", 4, 1.0)
    for _ in range(150):
        times.note("a", 4, 0.001)
    assert times.usual_s("a", 4) == pytest.approx(0.001, rel=0.2)


def test_requests_of_like_size_share_an_estimate_and_others_do_not() -> None:
    times = AnswerTimes()
    times.note("a", 4, 0.1)
    times.note("a", 2000, 5.0)
    assert [times.usual_s("a", size) for size in (4, 7, 1024, 2047)] == [0.1, 0.1, 5.0, 5.0]


def test_an_unknown_size_is_taken_from_the_nearest_in_proportion_if_that_is_smaller() -> None:
    """4 to 7 pairs are known: 16 to 31 take four times as long; fewer may take as long."""
    times = AnswerTimes()
    times.note("a", 4, 0.1)
    assert times.usual_s("a", 16) == 0.4
    assert times.usual_s("a", 1) == 0.1


def test_an_unknown_worker_is_taken_for_the_slowest_known_one() -> None:
    times = AnswerTimes()
    times.note("a", 4, 0.1)
    times.note("b", 4, 0.3)
    assert times.usual_s("c", 4) == 0.3
    assert times.usual_s("a", 4) == 0.1
