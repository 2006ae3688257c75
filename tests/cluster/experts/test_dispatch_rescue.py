"""The dispatcher fed by hand: hedges, suspects, the fallback, and the end of patience."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cluster.errors import WorkerLost
from cluster.experts.dispatch_events import (
    Action,
    Answered,
    Fail,
    Hurry,
    RefreshPlacement,
    StreamBroken,
    StreamOpened,
    Submit,
    Tick,
)
from cluster.experts.hedging import BURST
from cluster.experts.messages import ExpertFailure
from cluster.experts.placement import FALLBACK, Placement
from cluster.experts.token_dispatcher import DispatchLimits, TokenDispatcher
from tests.cluster.experts.test_token_dispatcher import (
    HIDDEN,
    IDS,
    OUTPUTS,
    answer,
    asked,
    completed,
    one_copy,
    reply,
    sends,
    submit,
    two_copies,
)

LIMITS = DispatchLimits(reply_timeout_s=10.0, layer_timeout_s=40.0, min_hedge_s=0.1, max_reply_ratio=5.0)
QUICK_S = 0.01


def experienced(placement: Placement, *workers: str, has_fallback: bool = False) -> TokenDispatcher:
    """Return a dispatcher whose workers have answered a layer within QUICK_S."""
    machine = TokenDispatcher(placement, 77, torch.float32, LIMITS, has_fallback)
    for worker in placement.workers:
        machine.on(StreamOpened(worker), 0.0)
    for send in sends(submit(machine, ticket=100)):
        answer(machine, send, QUICK_S)
    for worker in set(placement.workers) - set(workers):
        machine.on(StreamBroken(worker, "killed"), 0.0)
    return machine


def prompt(machine: TokenDispatcher, now_s: float = 1.0, ticket: int = 0) -> list[Action]:
    return submit(machine, ticket=ticket, now_s=now_s)


def test_a_send_that_outlasts_the_usual_time_is_hedged_and_the_first_answer_wins() -> None:
    for hedge_wins in (False, True):
        machine = experienced(two_copies(), "a", "b")
        (first,) = sends(prompt(machine))
        assert machine.next_deadline_s() == pytest.approx(1.1)
        (hedge,) = sends(machine.on(Tick(), 1.1))
        assert hedge.worker != first.worker
        winner, loser = (hedge, first) if hedge_wins else (first, hedge)
        assert torch.equal(completed(answer(machine, winner, 1.2)), OUTPUTS)
        assert answer(machine, loser, 1.3) == []
        counters = machine.counters
        assert (counters.hedges, counters.hedge_wins, counters.resends) == (1, hedge_wins, 1)
        assert counters.dropped == {"late or repeated": 1}


def test_a_send_is_hedged_once() -> None:
    """Both are late: no third worker has a copy, and nobody is asked twice."""
    machine = experienced(two_copies(), "a", "b")
    prompt(machine)
    (hedge,) = sends(machine.on(Tick(), 1.1))
    assert sends(machine.on(Tick(), 1.3)) == []
    assert sends(machine.on(Tick(), 5.0)) == []
    assert machine.counters.hedges == 1
    completed(answer(machine, hedge, 6.0))


def test_when_everything_is_slow_hedges_are_a_share_of_the_sends() -> None:
    """Each layer takes ten times as long as usual, whoever is asked."""
    machine, now_s = experienced(two_copies(), "a", "b"), 1.0
    machine._hedging.grew_late = lambda worker, num_pairs, waited_s: None  # so that estimates stay too low
    machine._hedging.answered = lambda worker, num_pairs, took_s: None
    num_layers = 400
    for ticket in range(num_layers):
        (send,) = sends(prompt(machine, now_s, ticket))
        machine.on(Tick(), now_s + 0.1)
        now_s += 0.15
        completed(answer(machine, send, now_s))
    counters = machine.counters
    allowance = BURST + LIMITS.hedge_fraction * counters.sends + (now_s - 1.0)
    assert BURST <= counters.hedges <= allowance
    assert counters.hedges < num_layers / 2


def test_a_hung_worker_is_not_asked_first_again_until_it_has_answered() -> None:
    machine = experienced(two_copies(), "a", "b")
    (hung,) = sends(prompt(machine))
    other = {"a": "b", "b": "a"}[hung.worker]
    completed(answer(machine, sends(machine.on(Tick(), 1.1))[0], 1.2))
    assert not machine.is_whole
    for ticket in (1, 2):
        (send,) = sends(prompt(machine, 1.3, ticket))
        assert send.worker == other
        completed(answer(machine, send, 1.4))
    assert answer(machine, hung, 2.0) == []  # it has come back; its answer is too late to count
    assert machine.is_whole
    (send,) = sends(prompt(machine, 2.1, 3))
    assert send.worker == hung.worker


def test_a_suspect_is_asked_where_nobody_else_can_be() -> None:
    machine = experienced(one_copy(), "a", "b")
    to_a, to_b = sends(prompt(machine))
    answer(machine, to_b, 1.01)
    assert machine.on(Tick(), 1.1) == [RefreshPlacement(0)]
    completed(answer(machine, to_a, 1.5))
    machine._hedging.suspects.add("a")
    assert [worker for worker, _ in asked(prompt(machine, 2.0, 1))] == ["b", "a"]


def test_a_killed_hedge_leaves_the_late_worker_to_answer_or_come_back() -> None:
    """A double fault: a hangs, b is killed. a's stream breaks too, it comes back, and is asked anew."""
    machine = experienced(two_copies(), "a", "b")
    (hung,) = sends(prompt(machine))
    (hedge,) = sends(machine.on(Tick(), 1.1))
    assert sends(machine.on(StreamBroken(hedge.worker, "killed"), 1.2)) == []
    assert sends(machine.on(StreamBroken(hung.worker, "silent"), 5.0)) == []
    (again,) = sends(machine.on(StreamOpened(hung.worker), 6.0))
    assert torch.equal(completed(answer(machine, again, 6.1)), OUTPUTS)
    assert answer(machine, hung, 6.2) == []  # fenced: sent to an earlier life of the stream


def test_what_was_asked_of_another_when_it_grew_late_is_not_asked_of_a_third_when_the_stream_breaks() -> None:
    everywhere = ((0, 1, 2),) * 4
    machine = experienced(Placement(0, 2, 4, ("a", "b", "c"), (everywhere, everywhere)), "a", "b", "c")
    (hung,) = sends(prompt(machine))
    (hedge,) = sends(machine.on(Tick(), 1.1))
    assert sends(machine.on(StreamBroken(hung.worker, "silent"), 1.15)) == []
    assert torch.equal(completed(answer(machine, hedge, 1.2)), OUTPUTS)


def test_a_suspect_whose_stream_breaks_is_suspected_no_longer_but_known_to_be_gone() -> None:
    machine = experienced(two_copies(), "a", "b")
    (hung,) = sends(prompt(machine))
    completed(answer(machine, sends(machine.on(Tick(), 1.1))[0], 1.2))
    assert not machine.is_whole
    machine.on(StreamBroken(hung.worker, "silent"), 4.0)
    assert machine.is_whole
    assert hung.worker not in machine.open_workers


def test_without_a_copy_the_fallback_computes_what_is_missing_and_only_that() -> None:
    machine = experienced(one_copy(), "b", has_fallback=True)
    to_b, to_fallback = sends(prompt(machine))
    assert asked([to_b, to_fallback]) == [("b", [3]), (FALLBACK, [0, 1, 0])]
    answer(machine, to_fallback, 1.1)
    assert torch.equal(completed(answer(machine, to_b, 1.2)), OUTPUTS)
    assert (machine.counters.fallbacks, machine.is_whole) == (1, False)


def test_the_fallback_takes_over_what_a_lost_or_hung_worker_owes() -> None:
    for is_killed in (True, False):
        machine = experienced(one_copy(), "a", "b", has_fallback=True)
        to_a, to_b = sends(prompt(machine))
        answer(machine, to_b, 1.01)
        rescue = machine.on(StreamBroken("a", "killed"), 1.02) if is_killed else machine.on(Tick(), 1.1)
        assert asked(rescue) == [(FALLBACK, [0, 1, 0])]
        assert torch.equal(completed(answer(machine, sends(rescue)[0], 1.2)), OUTPUTS)
        assert answer(machine, to_a, 1.3) == []


def test_a_hung_only_copy_is_left_alone_while_the_fallback_answers() -> None:
    machine = experienced(one_copy(), "a", "b", has_fallback=True)
    to_a, to_b = sends(prompt(machine))
    answer(machine, to_b, 1.01)
    completed(answer(machine, sends(machine.on(Tick(), 1.1))[0], 1.2))
    assert [worker for worker, _ in asked(prompt(machine, 1.3, 1))] == ["b", FALLBACK]
    answer(machine, to_a, 1.4)
    assert [worker for worker, _ in asked(prompt(machine, 1.5, 2))] == ["a", "b"]


def test_a_worker_that_comes_back_is_asked_again_instead_of_the_fallback() -> None:
    machine = experienced(one_copy(), "b", has_fallback=True)
    prompt(machine)
    machine.on(StreamOpened("a"), 1.1)
    assert machine.is_whole
    assert [worker for worker, _ in asked(prompt(machine, 1.2, 1))] == ["a", "b"]


def test_a_fallback_is_never_late() -> None:
    machine = experienced(one_copy(), has_fallback=True)
    (only,) = sends(prompt(machine))
    assert only.worker == FALLBACK
    assert machine.on(Tick(), 39.0) == []
    completed(answer(machine, only, 39.5))


def test_where_the_fallback_fails_the_step_waits_for_a_worker() -> None:
    machine = experienced(one_copy(), "b", has_fallback=True)
    to_b, to_fallback = sends(prompt(machine))
    answer(machine, to_b, 1.05)
    failure = ExpertFailure(to_fallback.request.key, 0, "out of memory")
    assert machine.on(Answered(FALLBACK, failure), 1.1) == [RefreshPlacement(0)]
    (again,) = sends(machine.on(StreamOpened("a"), 1.2))
    assert again.worker == "a"
    assert torch.equal(completed(answer(machine, again, 1.3)), OUTPUTS)


def test_without_a_fallback_a_step_waits_long_and_asks_for_placements() -> None:
    machine = experienced(one_copy(), "b")
    answer(machine, sends(prompt(machine))[0], 1.01)
    num_refreshes = 0
    for tick in range(60):
        num_refreshes += machine.on(Tick(), 2.0 + tick / 2) == [RefreshPlacement(0)]
    assert num_refreshes >= 59
    (again,) = sends(machine.on(StreamOpened("a"), 35.0))
    assert torch.equal(completed(answer(machine, again, 35.1)), OUTPUTS)


def test_whoever_stops_need_not_wait_for_lost_workers() -> None:
    machine = experienced(one_copy(), "b")
    prompt(machine)
    machine.on(Hurry(1.0), 2.0)
    assert not [action for action in machine.on(Tick(), 2.9) if isinstance(action, Fail)]
    (fail,) = [action for action in machine.on(Tick(), 3.0) if isinstance(action, Fail)]
    assert isinstance(fail.error, WorkerLost)
    prompt(machine, 4.0, 1)
    assert [action for action in machine.on(Tick(), 5.0) if isinstance(action, Fail)]


def test_an_answer_to_another_life_of_the_dispatcher_clears_no_suspect() -> None:
    machine = experienced(two_copies(), "a", "b")
    (hung,) = sends(prompt(machine))
    machine.on(Tick(), 1.1)
    foreign = replace(reply(hung.request), key=replace(hung.request.key, incarnation=1))
    machine.on(Answered(hung.worker, foreign), 1.2)
    assert not machine.is_whole


def test_is_awaited_says_whether_an_answer_would_count() -> None:
    machine = experienced(two_copies(), "a", "b")
    (send,) = sends(machine.on(Submit(0, 6, 1, 0, HIDDEN, np.asarray(IDS)), 1.0))
    assert machine.is_awaited(send.request.key.send)
    completed(answer(machine, send, 1.05))
    assert not machine.is_awaited(send.request.key.send)
