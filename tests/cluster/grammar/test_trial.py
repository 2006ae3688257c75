"""Trials: a grammar that hangs, crashes or eats memory costs a process and nothing else."""

import json

import psutil
import pytest
from llguidance import LLMatcher

from cluster.errors import GrammarRefused
from cluster.grammar.trial import Trials

GOOD = LLMatcher.grammar_from_regex("a+")
SLOW = LLMatcher.grammar_from_json_schema(
    json.dumps({"allOf": [{"type": "string", "pattern": f"^(a|b)*a.{{{i}}}$"} for i in range(30)]})
)
DEEP = LLMatcher.grammar_from_lark(
    "start: a0\n" + "\n".join(f"a{i}: a{i + 1}" for i in range(400_000)) + '\na400000: "x"'
)


def trial_processes() -> set[int]:
    found = psutil.Process().children(recursive=True)
    return {child.pid for child in found if any("trial_process" in word for word in child.cmdline())}


def test_a_process_serves_many_grammars_and_ends_when_told() -> None:
    before = trial_processes()
    trials = Trials(20.0)

    said = [trials.complaint(one) for one in (GOOD, LLMatcher.grammar_from_regex("(a"), GOOD)]

    assert said[0] is None
    assert "unclosed group" in (said[1] or "")
    assert said[2] is None
    assert len(trial_processes() - before) == 1
    trials.close()
    assert trial_processes() <= before


@pytest.mark.parametrize(("bad", "why"), [(SLOW, "within 1 s"), (DEEP, "memory|deep|within 1 s")])
def test_after_one_that_hangs_or_crashes_the_next_is_tried_afresh(bad: str, why: str) -> None:
    before = trial_processes()
    trials = Trials(1.0)
    assert trials.complaint(GOOD) is None

    with pytest.raises(GrammarRefused, match=why):
        trials.complaint(bad)

    assert trial_processes() <= before
    assert trials.complaint(GOOD) is None
    trials.close()
