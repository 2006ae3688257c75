"""Hundreds of engines that guess ahead, rightly and wrongly, under random events: no bit of any answer changes.

Every answer is compared, token by token, with that of an engine of its own which never guesses: ids, logprobs,
digests of the logits, and how it ends. Sequences are preempted, aborted, resumed and failed on the way, and after
every event the books balance (the driver sees to that).
"""

import random
from typing import Any

import pytest

from cluster.engine.blocks import BlockCount
from cluster.engine.sequence import FinishReason, SequenceRequest
from cluster.engine.stats import EngineStats
from tests.cluster.engine.driver import EOS, Driver, hand_limits, request
from tests.cluster.engine.hand_transformer import hand_continuation
from tests.cluster.engine.oracle import ALWAYS, Oracle, Whole, assert_told, whole

NUM_SEEDS = 220
MAX_CONTEXT = 60

_KINDS: list[dict[str, Any]] = [
    {},
    {"top_p": 0.8},
    {"top_k": 5, "logit_bias": ((3, 4.0), (EOS, 2.0))},
    {"min_p": 0.1, "frequency_penalty": 1.5},
    {"repetition_penalty": 1.7, "presence_penalty": 0.7},
    {"stop": ("a", "he", "%"), "frequency_penalty": -0.5},
    {"stop_token_ids": (5, 50, 77), "min_tokens": 6},
]


def _random_request(chance: random.Random, name: str) -> SequenceRequest:
    beginning = [root * 7 + place % 5 for root in [chance.randrange(3)] for place in range(chance.randint(0, 28))]
    kind = chance.choice(_KINDS)
    return request(
        name,
        [*beginning, *(chance.randrange(96) for _ in range(chance.randint(1, 6)))],
        priority=chance.choice([0, 0, 0, 1, -1]),
        seed=chance.randrange(1000),
        choice=chance.randrange(3),
        max_tokens=chance.randint(kind.get("min_tokens", 1), 25),
        temperature=chance.choice([0.0, 1.0, 5.0]),
        ignore_eos=chance.random() < 0.5,
        num_logprobs=chance.choice([None, None, 2]),
        **kind,
    )


def _random_driver(chance: random.Random, texts: list[list[int]]) -> Driver:
    """Return an engine that is short of something: blocks of either group, slots, or budget."""
    max_running = chance.randint(1, 6)
    limits = hand_limits(
        num_blocks=BlockCount(chance.randint(16, 22), chance.randint(4, 16)),
        max_context_tokens=MAX_CONTEXT,
        max_running=max_running,
        max_step_tokens=chance.randint(max_running, 24),
        has_logit_digests=True,
        speculation=ALWAYS,
    )
    return Driver(limits, new_drafter=lambda: Oracle(texts, chance))


def _resume(chance: random.Random, driver: Driver, one: SequenceRequest, attempt: int) -> None:
    """Admit a request once more, with some of what it was told as released."""
    told: dict[int, int] = {}
    for event in driver.events:
        if event.sequence_id == one.sequence_id:
            told |= {event.index + place: token for place, token in enumerate(event.token_ids)}
    released = [told[index] for index in range(len(told))][: chance.randint(0, len(told))]
    prompt = [*one.prompt_ids, *released]
    if len(prompt) < MAX_CONTEXT:
        again = SequenceRequest(
            one.sequence_id, tuple(prompt), one.params, len(released), attempt, one.priority, one.cache_salt
        )
        driver.admit(again)


def _play(chance: random.Random, requests: list[SequenceRequest], wholes: list[Whole]) -> Driver:
    """Give an engine random events."""
    texts = [[*one.prompt_ids, *each.token_ids] for one, each in zip(requests, wholes, strict=True)]
    driver, num_admitted, attempts = _random_driver(chance, texts), 0, dict[str, int]()
    for _ in range(chance.randint(20, 50)):
        roll = chance.random()
        if roll < 0.3 and num_admitted < len(requests):
            driver.admit(requests[num_admitted])
            num_admitted += 1
        elif roll < 0.36 and num_admitted:
            driver.abort(requests[chance.randrange(num_admitted)].sequence_id)
        elif roll < 0.44 and num_admitted:
            one = requests[chance.randrange(num_admitted)]
            attempts[one.sequence_id] = attempts.get(one.sequence_id, 0) + 1
            _resume(chance, driver, one, attempts[one.sequence_id])
        elif roll < 0.46 and driver.plan:
            driver.fail()
        elif driver.plan:
            driver.step()
    driver.finish()
    return driver


def _check(seed: int) -> EngineStats:
    """Play a seed and compare every event; return what the engine counted."""
    chance = random.Random(seed)
    requests = [_random_request(chance, f"s{number}") for number in range(chance.randint(2, 9))]
    wholes = [whole(one, max_context_tokens=MAX_CONTEXT) for one in requests]
    driver = _play(chance, requests, wholes)
    expected = {one.sequence_id: each for one, each in zip(requests, wholes, strict=True)}
    for event in driver.events:
        if event.digests or not event.token_ids:
            assert_told(event, expected[event.sequence_id])
    assert all(event.digests for event in driver.events if event.token_ids)
    return driver.engine.stats(0.0)


@pytest.mark.parametrize("seed", range(NUM_SEEDS))
def test_guessing_ahead_changes_no_bit_of_any_answer(seed: int) -> None:
    _check(seed)


def test_the_games_above_draft_accept_reject_and_preempt() -> None:
    """If they did not, they would prove little."""
    stats = [_check(seed) for seed in range(40)]
    assert sum(each.num_accepted for each in stats) > 200
    assert sum(each.num_drafted - each.num_accepted for each in stats) > 200
    assert sum(each.num_preemptions > 0 for each in stats) > 4
    assert sum(each.num_failed_steps > 0 for each in stats) > 4


def test_negative_control_accepting_without_verifying_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.engine.live_sequence.num_confirmed", lambda draft, sampled: len(sampled))
    with pytest.raises(AssertionError):
        _check(1)


def _driver(texts: list[list[int]], **limits: Any) -> Driver:
    """Return an engine whose drafter never lies."""
    honest = random.Random(0)
    honest.random = lambda: 1.0  # type: ignore[method-assign]
    limits = {"speculation": ALWAYS, "has_logit_digests": True, **limits}
    return Driver(hand_limits(**limits), new_drafter=lambda: Oracle(texts, honest))


def test_a_right_guess_saves_its_steps() -> None:
    """12 tokens: the first step gives the first token and the guess's five, the second the other six."""
    text = hand_continuation([1, 2, 3], 12)
    driver = _driver([[1, 2, 3, *text]])
    driver.admit(request("a", [1, 2, 3], max_tokens=12))
    driver.finish()
    assert driver.tokens("a") == text
    assert driver.transformer.num_steps == 2
    stats = driver.engine.stats(0.0)
    assert (stats.num_tokens, stats.num_drafted, stats.num_accepted) == (12, 10, 10)


def test_no_guess_goes_beyond_the_last_token_that_may_come() -> None:
    text = hand_continuation([1, 2, 3], 20)
    driver = _driver([[1, 2, 3, *text]])
    driver.admit(request("a", [1, 2, 3], max_tokens=3), request("b", [1, 2, 3], max_tokens=1))
    driver.finish()
    assert (driver.tokens("a"), driver.tokens("b")) == (text[:3], text[:1])
    assert driver.engine.stats(0.0).num_drafted == 2


def test_a_stop_inside_a_right_guess_ends_the_sequence_there() -> None:
    text = hand_continuation([3, 4], 9)
    driver = _driver([[3, 4, *text]])
    driver.admit(request("a", [3, 4], max_tokens=9, stop_token_ids=(text[2],)))
    driver.finish()
    assert driver.tokens("a") == text[: text.index(text[2]) + 1]
    assert (driver.finish_reason("a"), driver.ending("a").stop_reason) == (FinishReason.STOP, text[2])


def test_a_wrong_guess_leaves_no_block_and_no_name_behind() -> None:
    """The guesses are all wrong and reach into the next block; a second turn finds only what was said."""
    liar = random.Random(0)
    liar.random = lambda: 0.0  # type: ignore[method-assign]
    text = [9, 8, 7, *hand_continuation([9, 8, 7], 18)]
    limits = hand_limits(speculation=ALWAYS, has_logit_digests=True)
    driver = Driver(limits, new_drafter=lambda: Oracle([text], liar))
    driver.admit(request("a", [9, 8, 7], max_tokens=18))
    for _ in range(10):
        driver.step()
        assert driver.engine.stats(0.0).num_used_blocks.full <= limits.geometry.num_blocks(3 + 18)
    driver.finish()
    driver.admit(request("b", [*text, 1], max_tokens=4))
    driver.finish()
    assert driver.tokens("b") == hand_continuation([*text, 1], 4)
    assert driver.ending("b").num_cached == 20
    assert driver.engine.stats(0.0).num_accepted == 0
    assert driver.engine.stats(0.0).num_drafted > 50


def test_a_text_that_repeats_itself_is_guessed_from_itself() -> None:
    """Greedy with one token left open: the output is that token, again and again."""
    speculation = type(ALWAYS)(max_draft_tokens=4, ngram_tokens=2, row_cost_fraction=0.5)
    bias = tuple((token, -50.0) for token in range(97) if token != 11)
    one = request("a", [1, 2, 3], max_tokens=40, logit_bias=bias)
    driver = Driver(hand_limits(speculation=speculation, has_logit_digests=True))
    driver.admit(one)
    driver.finish()
    alone = whole(one)
    assert driver.tokens("a") == alone.token_ids == [11] * 40
    for event in driver.events:
        assert_told(event, alone)
    assert driver.transformer.num_steps < 20
    assert driver.engine.stats(0.0).num_accepted > 20
