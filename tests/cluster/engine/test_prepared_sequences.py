"""Sequences with a constraint: prepared before they wait, held to it while they run, gone whenever they are aborted."""

from dataclasses import replace
from typing import Any

import pytest

from cluster.engine.engine_thread import EngineThread
from cluster.engine.sequence import FinishReason, SequenceRequest
from cluster.engine.step import Admit, Prepare, Stop
from cluster.errors import EngineError
from cluster.grammar.compiler import Prepared
from cluster.grammar.constraint import Constraint, MessageShape
from cluster.grammar.guide import TurnGuide
from tests.cluster.engine.driver import EOS, Driver, request, run_alone
from tests.cluster.engine.hand_transformer import VOCAB_SIZE

BEGINNING = (5, 6, 7)
CONSTRAINT = Constraint((MessageShape((BEGINNING,), (EOS,), is_last=True),))


def held(name: str, prompt: list[int], **fields: Any) -> SequenceRequest:
    return replace(request(name, prompt, **fields), constraint=CONSTRAINT)


def prepared(one: SequenceRequest) -> Prepared:
    guide = TurnGuide(CONSTRAINT, {}, VOCAB_SIZE)
    for token_id in one.prompt_ids[len(one.prompt_ids) - one.num_released :]:
        guide.advance(token_id)
    return Prepared(one.sequence_id, one.attempt, guide)


def test_it_is_prepared_once_and_runs_only_then() -> None:
    driver, one = Driver(), held("a", [1, 2], max_tokens=6)

    actions = driver.engine.on(Admit(one), 0.0)

    assert actions == [Prepare(one, CONSTRAINT)]
    driver.engine.check_integrity()
    assert driver.engine.stats(1.0).num_waiting == 1
    driver.on(prepared(one))
    driver.finish()
    assert tuple(driver.tokens("a")[:3]) == BEGINNING
    assert len(driver.tokens("a")) == 6


def test_others_run_meanwhile_and_keep_their_tokens() -> None:
    driver, one, free = Driver(), held("a", [1, 2]), request("b", [3, 4])
    driver.admit(one, free)

    driver.step()
    driver.step()
    driver.on(prepared(one))
    driver.finish()

    assert driver.tokens("b") == run_alone(free)
    assert tuple(driver.tokens("a")[:3]) == BEGINNING


def test_an_end_of_the_turn_is_an_end_even_where_stops_are_ignored() -> None:
    closed = Constraint((MessageShape(((),), (9,), is_last=True),))
    driver = Driver()
    one = replace(request("a", [1], logit_bias=((9, 100.0),), max_tokens=9, min_tokens=5), constraint=closed)
    driver.admit(one)
    driver.on(Prepared("a", 0, TurnGuide(closed, {}, VOCAB_SIZE)))
    driver.finish()

    assert driver.tokens("a") == [9]
    assert (driver.finish_reason("a"), driver.ending("a").stop_reason) == (FinishReason.STOP, 9)


def test_a_turn_that_ends_with_the_last_token_there_was_room_for_is_whole() -> None:
    closed = Constraint((MessageShape(((),), (9,), is_last=True),))
    driver = Driver()
    driver.admit(replace(request("a", [1], logit_bias=((9, 100.0),), max_tokens=1), constraint=closed))
    driver.on(Prepared("a", 0, TurnGuide(closed, {}, VOCAB_SIZE)))
    driver.finish()

    assert (driver.tokens("a"), driver.finish_reason("a")) == ([9], FinishReason.STOP)


def test_a_refusal_ends_it_with_the_reason() -> None:
    driver = Driver()
    driver.admit(held("a", [1]))

    driver.on(Prepared("a", 0, None, "form: it is bad"))

    assert driver.finish_reason("a") is FinishReason.REFUSED
    assert driver.ending("a").error == "form: it is bad"
    driver.finish()


def test_aborted_while_it_is_prepared_it_is_gone_and_its_guide_is_dropped() -> None:
    driver, one = Driver(), held("a", [1])
    driver.admit(one)

    driver.abort("a")
    driver.on(prepared(one))

    assert driver.finish_reason("a") is FinishReason.ABORT
    driver.finish()


def test_a_guide_of_an_older_attempt_is_not_taken() -> None:
    driver, old = Driver(), held("a", [1, 2])
    driver.admit(old)
    new = replace(old, prompt_ids=(1, 2, 5), num_released=1, attempt=1)
    driver.admit(new)

    driver.on(prepared(old))
    assert driver.engine.stats(0.0).num_running == 0
    driver.on(prepared(new))
    driver.finish()

    own = [event for event in driver.events if event.attempt == 1]
    assert [token_id for event in own for token_id in event.token_ids][:2] == [6, 7]


def test_an_engine_that_stops_ends_those_that_are_prepared() -> None:
    driver = Driver()
    driver.admit(held("a", [1]))

    driver.on(Stop("enough"))

    assert driver.finish_reason("a") is FinishReason.UNAVAILABLE


def test_an_engine_without_a_compiler_says_so() -> None:
    driver = Driver()
    thread = EngineThread(driver.engine, driver.runner)

    with pytest.raises(EngineError, match="compiles no grammars"):
        thread.admit(held("a", [1]))
