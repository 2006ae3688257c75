"""The dispatcher as a state machine, fed by hand: one event after the other, and what it then wants done."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from cluster.errors import HandshakeRefused, WorkerLost
from cluster.experts.dispatch_events import (
    Action,
    Answered,
    Complete,
    Fail,
    PlacementPublished,
    RefreshPlacement,
    Send,
    StreamBroken,
    StreamOpened,
    StreamRefused,
    Submit,
    Tick,
)
from cluster.experts.messages import ExpertFailure, ExpertLacks, ExpertReply, ExpertRequest, answer_request, tensor_rows
from cluster.experts.placement import Placement
from cluster.experts.token_dispatcher import DispatchLimits, TokenDispatcher
from tests.cluster.experts.hand import HandShard

LIMITS = DispatchLimits(reply_timeout_s=1.0, layer_timeout_s=4.0, refresh_interval_s=0.5)
ALL = HandShard({(layer, expert) for layer in range(2) for expert in range(4)})
HIDDEN = torch.tensor([[1.0, 2.0], [10.0, 20.0]])
IDS = np.array([[0, 1], [3, 0]])
OUTPUTS = torch.tensor([[[1.0, 2.0], [2.0, 4.0]], [[40.0, 80.0], [10.0, 20.0]]])
"""Expert e gives its row times e + 1."""


def two_copies(epoch: int = 0) -> Placement:
    """Experts 0 and 1 are on a first, 2 and 3 on b, and the other worker has a second copy."""
    layer = ((0, 1), (0, 1), (1, 0), (1, 0))
    return Placement(epoch, 2, 4, ("a", "b"), (layer, layer))


def one_copy(epoch: int = 0, workers: tuple[str, ...] = ("a", "b")) -> Placement:
    layer = ((0,), (0,), (1,), (1,))
    return Placement(epoch, 2, 4, workers, (layer, layer))


def dispatcher(placement: Placement, *workers: str) -> TokenDispatcher:
    """Return a dispatcher with a stream to each of `workers`."""
    machine = TokenDispatcher(placement, 77, torch.float32, LIMITS)
    for worker in workers:
        assert machine.on(StreamOpened(worker), 0.0) == []
    return machine


def submit(machine: TokenDispatcher, ticket: int = 0, now_s: float = 0.0, micro_batch: int = 0) -> list[Action]:
    return machine.on(Submit(ticket, step=5, layer=1, micro_batch=micro_batch, hidden=HIDDEN, expert_ids=IDS), now_s)


def sends(actions: list[Action]) -> list[Send]:
    return [action for action in actions if isinstance(action, Send)]


def reply(request: ExpertRequest) -> ExpertReply:
    answer = answer_request(ALL, request, epoch=0)
    assert isinstance(answer, ExpertReply)
    return answer


def answer(machine: TokenDispatcher, send: Send, now_s: float = 0.0) -> list[Action]:
    return machine.on(Answered(send.worker, reply(send.request)), now_s)


def completed(actions: list[Action]) -> Tensor:
    (action,) = actions
    assert isinstance(action, Complete)
    return action.outputs


def asked(actions: list[Action]) -> list[tuple[str, list[int]]]:
    return [(send.worker, send.request.expert_ids.tolist()) for send in sends(actions)]


def test_a_layer_completes_once_when_all_have_answered_in_any_order() -> None:
    for turned in (False, True):
        machine = dispatcher(one_copy(), "a", "b")
        order = sends(submit(machine))
        assert [(send.worker, tensor_rows(send.request.rows, torch.float32).tolist()) for send in order] == [
            ("a", HIDDEN.tolist()),
            ("b", [[10.0, 20.0]]),
        ]
        first, second = reversed(order) if turned else order
        assert answer(machine, first) == []
        assert torch.equal(completed(answer(machine, second)), OUTPUTS)
        assert answer(machine, second) == []
        assert machine.next_deadline_s() is None


def test_no_rows_are_complete_at_once() -> None:
    machine = dispatcher(one_copy())
    empty = Submit(0, 0, 0, 0, torch.zeros(0, 2), np.zeros((0, 2), dtype=np.int64))
    assert completed(machine.on(empty, 0.0)).shape == (0, 2, 2)


def test_a_frame_names_the_dispatcher_step_layer_micro_batch_and_send() -> None:
    machine = dispatcher(one_copy(epoch=3), "a", "b")
    first, second = sends(submit(machine, micro_batch=2))
    key = first.request.key
    assert (key.incarnation, key.step, key.layer, key.micro_batch, first.request.epoch) == (77, 5, 1, 2, 3)
    assert key.send != second.request.key.send


def test_a_broken_stream_sends_what_is_missing_to_the_other_copy_at_once() -> None:
    machine = dispatcher(two_copies(), "a", "b")
    (send,) = sends(submit(machine))
    other = {"a": "b", "b": "a"}[send.worker]
    again = machine.on(StreamBroken(send.worker, "killed"), 0.1)
    assert asked(again) == [(other, [0, 1, 3, 0])]
    assert torch.equal(completed(answer(machine, sends(again)[0], 0.2)), OUTPUTS)
    assert machine.counters.resends == 1


def test_what_a_lost_worker_answered_before_is_not_asked_again() -> None:
    machine = dispatcher(replace(one_copy(), copies=(((0,), (0,), (0, 1), (1, 0)),) * 2), "a", "b")
    to_a, *rest = sends(submit(machine))
    assert rest == []
    machine = dispatcher(one_copy(), "a", "b")
    to_a, to_b = sends(submit(machine))
    answer(machine, to_b)
    machine.on(PlacementPublished(two_copies(1)), 0.1)
    again = machine.on(StreamBroken("a", "killed"), 0.2)
    assert asked(again) == [("b", [0, 1, 0])]
    assert sends(again)[0].request.epoch == 1
    assert answer(machine, to_a, 0.25) == []  # it had answered before it died, too late to count
    assert torch.equal(completed(answer(machine, sends(again)[0], 0.3)), OUTPUTS)


def test_without_a_copy_a_layer_waits_for_the_worker_to_come_back() -> None:
    machine = dispatcher(one_copy(), "a", "b")
    to_a, to_b = sends(submit(machine))
    answer(machine, to_b)
    assert machine.on(StreamBroken("a", "killed"), 0.1) == [RefreshPlacement(0)]
    again = machine.on(StreamOpened("a"), 2.0)
    assert asked(again) == [("a", [0, 1, 0])]
    assert torch.equal(completed(answer(machine, sends(again)[0], 2.1)), OUTPUTS)
    assert answer(machine, to_a, 2.2) == []


def test_without_a_copy_a_layer_waits_for_a_placement_that_has_one() -> None:
    machine = dispatcher(one_copy(), "a", "b", "c")
    answer(machine, sends(submit(machine))[1])
    machine.on(StreamBroken("a", "killed"), 0.1)
    again = machine.on(PlacementPublished(one_copy(1, ("c", "b"))), 1.0)
    assert asked(again) == [("c", [0, 1, 0])]
    assert machine.oldest_epoch == 0
    completed(answer(machine, sends(again)[0], 1.1))
    assert machine.oldest_epoch == 1


def test_a_layer_submitted_while_nobody_is_connected_is_sent_when_somebody_is() -> None:
    machine = dispatcher(two_copies())
    assert submit(machine) == [RefreshPlacement(0)]
    assert len(asked(machine.on(StreamOpened("b"), 0.1))) == 1


def test_the_deadline_fails_a_layer_and_tells_what_was_missing_and_why() -> None:
    machine = dispatcher(one_copy(), "a", "b")
    to_a, to_b = sends(submit(machine))
    answer(machine, to_b)
    machine.on(StreamBroken("a", "connection reset"), 0.1)
    assert machine.on(Tick(), 3.99)[0] == RefreshPlacement(0)
    (fail,) = machine.on(Tick(), 4.0)
    assert isinstance(fail, Fail)
    assert isinstance(fail.error, WorkerLost)
    assert str(fail.error) == (
        "layer 1: 3 of 4 answers missing after 4 s, from experts [0, 1] (a: connection reset)"
    )  # fmt: skip
    assert machine.on(StreamOpened("a"), 4.1) == []
    assert answer(machine, to_a, 4.2) == []
    assert (machine.counters.failed, machine.counters.completed) == (1, 0)


def test_a_late_send_is_also_sent_to_another_copy_and_the_first_answer_counts() -> None:
    for first_is_late_one in (False, True):
        machine = dispatcher(two_copies(), "a", "b")
        (send,) = sends(submit(machine))
        assert machine.next_deadline_s() == 1.0
        assert machine.on(Tick(), 0.9) == []
        again = sends(machine.on(Tick(), 1.0))
        assert [each.worker for each in again] == [{"a": "b", "b": "a"}[send.worker]]
        assert sends(machine.on(Tick(), 1.5)) == []
        first, second = (send, again[0]) if first_is_late_one else (again[0], send)
        assert torch.equal(completed(answer(machine, first, 1.6)), OUTPUTS)
        assert answer(machine, second, 1.7) == []
        assert machine.counters.dropped["late or repeated"] == 1


def test_what_a_late_worker_owed_is_not_sent_again_when_it_breaks_after_another_has_answered() -> None:
    layer = ((0, 1), (0, 1), (1,), (1,))
    machine = dispatcher(Placement(0, 2, 4, ("a", "b"), (layer, layer)), "a")
    (to_a,) = sends(submit(machine))
    (to_b,) = sends(machine.on(StreamOpened("b"), 0.5))
    (again,) = sends(machine.on(Tick(), 1.0))
    assert asked([to_a, to_b, again]) == [("a", [0, 1, 0]), ("b", [3]), ("b", [0, 1, 0])]
    assert answer(machine, again, 1.1) == []
    assert machine.on(StreamBroken("a", "killed"), 1.2) == []
    assert torch.equal(completed(answer(machine, to_b, 1.3)), OUTPUTS)


def test_a_late_worker_without_another_copy_may_still_answer() -> None:
    machine = dispatcher(one_copy(), "a", "b")
    to_a, to_b = sends(submit(machine))
    answer(machine, to_b)
    assert machine.on(Tick(), 1.0) == [RefreshPlacement(0)]
    assert torch.equal(completed(answer(machine, to_a, 3.0)), OUTPUTS)


def test_a_late_worker_that_fails_in_the_end_is_asked_again_where_nobody_else_can_be() -> None:
    machine = dispatcher(one_copy(), "a", "b")
    to_a, to_b = sends(submit(machine))
    answer(machine, to_b)
    machine.on(Tick(), 1.0)
    machine.on(Answered("a", ExpertFailure(to_a.request.key, 0, "out of memory")), 1.2)
    (again,) = sends(machine.on(Tick(), 1.5))
    assert again.worker == "a"
    assert torch.equal(completed(answer(machine, again, 1.6)), OUTPUTS)


def test_a_lack_goes_to_another_copy_and_asks_for_a_placement() -> None:
    machine = dispatcher(two_copies(), "a", "b")
    (send,) = sends(submit(machine))
    lacks = ExpertLacks(send.request.key, 4, np.array([0]))
    actions = machine.on(Answered(send.worker, lacks), 0.1)
    other = {"a": "b", "b": "a"}[send.worker]
    assert actions[0] == RefreshPlacement(0)
    assert 0 in dict(asked(actions))[other]
    *_, last = [answer(machine, each, 0.2) for each in sends(actions)]
    assert torch.equal(completed(last), OUTPUTS)


def test_an_expert_that_all_copies_lack_waits_for_a_placement_published_anew() -> None:
    machine = dispatcher(one_copy(), "a", "b")
    to_a, to_b = sends(submit(machine))
    answer(machine, to_b)
    lacks = ExpertLacks(to_a.request.key, 0, np.array([0, 1]))
    assert machine.on(Answered("a", lacks), 0.1) == [RefreshPlacement(0)]
    again = machine.on(PlacementPublished(one_copy(0)), 0.2)
    assert asked(again) == [("a", [0, 1, 0])]


def test_placements_are_asked_for_no_faster_than_the_limit_but_not_forgotten() -> None:
    machine = dispatcher(one_copy(), "a", "b")
    to_a, _ = sends(submit(machine))
    lacks = ExpertLacks(to_a.request.key, 0, np.array([0, 1]))
    assert machine.on(Answered("a", lacks), 0.1) == [RefreshPlacement(0)]
    (again,) = sends(machine.on(PlacementPublished(one_copy(0)), 0.2))
    lacks = ExpertLacks(again.request.key, 0, np.array([0, 1]))
    assert machine.on(Answered("a", lacks), 0.3) == []
    assert machine.next_deadline_s() == pytest.approx(0.6)
    assert machine.on(Tick(), 0.6) == [RefreshPlacement(0)]


def test_a_worker_that_fails_is_avoided_for_the_layer_only() -> None:
    machine = dispatcher(two_copies(), "a", "b")
    (send,) = sends(submit(machine))
    actions = machine.on(Answered(send.worker, ExpertFailure(send.request.key, 0, "out of memory")), 0.1)
    other = {"a": "b", "b": "a"}[send.worker]
    assert [worker for worker, _ in asked(actions)] == [other]
    completed(answer(machine, sends(actions)[0], 0.2))
    assert [worker for worker, _ in asked(submit(machine, ticket=1))] == [send.worker]


def test_the_only_worker_that_can_is_asked_again_after_a_failure_but_not_at_once() -> None:
    machine = dispatcher(one_copy(), "a", "b")
    to_a, to_b = sends(submit(machine))
    answer(machine, to_b)
    failure = ExpertFailure(to_a.request.key, 0, "out of memory")
    assert machine.on(Answered("a", failure), 0.1) == [RefreshPlacement(0)]
    assert machine.next_deadline_s() == 0.6
    again = machine.on(Tick(), 0.6)
    assert asked(again) == [("a", [0, 1, 0])]
    assert torch.equal(completed(answer(machine, sends(again)[0], 0.7)), OUTPUTS)


def test_what_a_worker_keeps_failing_at_ends_with_its_words() -> None:
    machine = dispatcher(one_copy(), "a", "b")
    to_a, to_b = sends(submit(machine))
    answer(machine, to_b)
    machine.on(Answered("a", ExpertFailure(to_a.request.key, 0, "out of memory")), 0.1)
    fail = machine.on(Tick(), 4.0)[0]
    assert isinstance(fail, Fail)
    assert "a: out of memory" in str(fail.error)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"incarnation": 78}, "foreign"),
        ({"step": 4}, "mismatched"),
        ({"layer": 0}, "mismatched"),
        ({"micro_batch": 1}, "mismatched"),
        ({"send": 999}, "late or repeated"),
    ],
)
def test_an_answer_that_is_not_to_this_send_is_dropped_and_counted(changes: dict[str, int], reason: str) -> None:
    machine = dispatcher(one_copy(), "a", "b")
    to_a, to_b = sends(submit(machine))
    wrong = replace(reply(to_a.request), key=replace(to_a.request.key, **changes))
    assert machine.on(Answered("a", wrong), 0.1) == []
    assert machine.counters.dropped == {reason: 1}
    answer(machine, to_a)
    assert torch.equal(completed(answer(machine, to_b)), OUTPUTS)


def test_an_answer_from_another_worker_or_of_another_size_is_dropped() -> None:
    machine = dispatcher(one_copy(), "a", "b")
    to_a, _ = sends(submit(machine))
    right = reply(to_a.request)
    assert machine.on(Answered("b", right), 0.1) == []
    assert machine.on(Answered("a", replace(right, outputs=right.outputs[:1])), 0.1) == []
    assert machine.counters.dropped == {"mismatched": 2}


def test_the_next_layer_of_a_micro_batch_leaves_the_one_before_behind() -> None:
    machine = dispatcher(one_copy(), "a", "b")
    left_behind = sends(submit(machine, ticket=0))
    beside = sends(submit(machine, ticket=1, micro_batch=1))
    newer = sends(submit(machine, ticket=2))
    for send in left_behind:
        assert answer(machine, send) == []
    for group in (beside, newer):
        answer(machine, group[0])
        completed(answer(machine, group[1]))
    assert (machine.counters.forgotten, machine.counters.completed) == (1, 2)
    assert machine.next_deadline_s() is None


def test_an_older_placement_changes_nothing() -> None:
    machine = dispatcher(one_copy(5), "a", "b")
    machine.on(PlacementPublished(two_copies(4)), 0.0)
    assert machine.placement == one_copy(5)


def test_a_refusal_is_told_when_the_layer_fails() -> None:
    machine = dispatcher(one_copy(), "b")
    machine.on(StreamRefused("a", HandshakeRefused("fingerprint 'x' is not 'y'")), 0.0)
    answer(machine, sends(submit(machine))[0])
    (fail,) = [action for action in machine.on(Tick(), 4.0) if isinstance(action, Fail)]
    assert "a: fingerprint 'x' is not 'y'" in str(fail.error)
