"""Hedging: deadlines between floor and ceiling, a budget, and suspects; worked out by hand."""

import pytest

from cluster.experts.dispatch_limits import DispatchLimits
from cluster.experts.hedging import BURST, Hedging

LIMITS = DispatchLimits(reply_timeout_s=10.0, min_hedge_s=0.1, max_reply_ratio=5.0, hedge_fraction=0.25)


def test_the_wait_follows_measured_times_between_floor_and_ceiling() -> None:
    hedging = Hedging(LIMITS)
    assert hedging.patience_s("a", 4) == 10.0  # nothing is known yet
    waits: list[float] = []
    for took_s in (0.001, 0.101, 5.031):  # 0.001, then 0.031, then 1.531
        hedging.answered("a", 4, took_s)
        waits.append(hedging.patience_s("a", 4))
    assert waits == [0.1, pytest.approx(0.155), pytest.approx(7.655)]
    hedging.answered("a", 4, 60.0)
    assert hedging.patience_s("a", 4) == 10.0


def test_a_calm_time_buys_a_burst_and_then_so_many_sends_one_hedge() -> None:
    hedging = Hedging(LIMITS)
    assert [hedging.may_hedge(False, 0.0) for _ in range(int(BURST) + 1)] == [True] * int(BURST) + [False]
    for _ in range(3):
        hedging.patience_s("a", 4)
    assert not hedging.may_hedge(False, 0.0)
    hedging.patience_s("a", 4)
    assert hedging.may_hedge(False, 0.0)
    assert not hedging.may_hedge(False, 0.0)


def test_time_buys_hedges_too_or_a_stand_still_would_last() -> None:
    hedging = Hedging(LIMITS)
    for _ in range(int(BURST)):
        hedging.may_hedge(False, 0.0)
    assert not hedging.may_hedge(False, 0.5)
    assert hedging.may_hedge(False, 1.0)


def test_at_the_ceiling_another_copy_is_asked_in_any_case() -> None:
    hedging = Hedging(LIMITS)
    for _ in range(int(BURST)):
        hedging.may_hedge(False, 0.0)
    assert hedging.may_hedge(True, 0.0)


def test_a_late_worker_is_suspect_until_it_is_heard_from_and_takes_at_least_so_long() -> None:
    hedging = Hedging(LIMITS)
    hedging.answered("a", 4, 0.1)
    hedging.grew_late("a", 4, 0.5)
    assert hedging.suspects == {"a"}
    assert hedging.patience_s("a", 4) == pytest.approx(5 * 0.22)
    hedging.heard_from("a")
    assert hedging.suspects == set()
