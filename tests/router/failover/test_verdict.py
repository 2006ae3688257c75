"""Each answer is counted once, as the same, changed or failed; a stall is a gap beyond the usual one."""

import copy

from router.failover.answers import Answer
from router.failover.verdict import Verdict, in_ms, stalls_s


def answer(*arrivals_s: float, text: str = "word") -> Answer:
    choice = {"text": text, "logprobs": {"token_logprobs": [-0.5]}, "finish_reason": "length"}
    return Answer({0: choice}, list(arrivals_s), arrivals_s[-1])


def test_every_answer_is_counted_once_and_one_logprob_makes_it_another() -> None:
    control = [answer(1.0, 2.0)] * 3
    changed, failed = copy.deepcopy(control[0]), copy.deepcopy(control[0])
    changed.choices[0]["logprobs"]["token_logprobs"] = [-0.5000001]
    failed.error, failed.ended_s = "the stream broke off", 4.0
    verdict = Verdict("fault")
    assert verdict.take([control[0], changed, failed], control, struck_s=1.5) == [2]
    assert (verdict.same, verdict.changed, verdict.failed, verdict.late_ends) == (1, 1, 1, 1)
    assert verdict.to_row()["errors"] == ["the stream broke off"]


def test_a_strike_after_the_last_answer_proves_nothing() -> None:
    verdict = Verdict("fault")
    verdict.take([answer(1.0, 2.0)], [answer(1.0, 2.0)], struck_s=2.5)
    assert verdict.too_late == 1


def test_a_stall_is_the_longest_gap_from_the_strike_on_less_the_usual_one() -> None:
    """Gaps 3, 1 and 2 s; the strike falls into the second; undisturbed, they are of 0.5 s."""
    control = answer(0.0, 0.5, 1.0)
    assert stalls_s(answer(0.0, 3.0, 4.0, 6.0), control, struck_s=3.5) == [1.5]
    assert stalls_s(answer(0.0, 3.0), control, struck_s=3.5) == []
    assert stalls_s(answer(0.0, 0.2), control, struck_s=0.1) == [0.0]


def test_a_percentile_of_few_durations_is_the_longest() -> None:
    assert in_ms([0.1, 0.3, 0.2], 0.99) == 300.0
    assert in_ms([0.1, 0.3, 0.2], 0.5) == 200.0
    assert in_ms([], 0.5) is None
