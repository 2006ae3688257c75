"""The engine over the hand model: tokens worked out by hand, whatever else happens in the same steps."""

import dataclasses
import math
from typing import Any

import pytest

from cluster.engine.blocks import BlockCount
from cluster.engine.sequence import FinishReason
from model.tokenizer import Tokenizer
from tests.cluster.engine.driver import EOS, Driver, hand_limits, request, run_alone
from tests.cluster.engine.hand_transformer import HandTransformer, hand_continuation


def test_the_tokens_are_those_of_the_hand_model() -> None:
    """Prompt 3, 4: the sum is 1*3 + 2*4 = 11, all of it in the window, so 11 + 3*11 + 2 = 46.

    Then 3*46 = 138 joins both sums: 149 + 3*149 + 3 = 599 = 17 (mod 97).
    """
    driver = Driver()
    driver.admit(request("a", [3, 4], max_tokens=2))
    driver.finish()
    assert driver.tokens("a") == [46, 17]
    assert driver.finish_reason("a") is FinishReason.LENGTH


def test_sequences_join_and_leave_between_steps() -> None:
    driver = Driver()
    driver.admit(request("a", [1, 2, 3], max_tokens=6))
    driver.step()
    driver.admit(request("b", [5], max_tokens=2))
    driver.step()
    driver.admit(request("c", list(range(20)), max_tokens=3))
    driver.finish()
    assert driver.tokens("a") == hand_continuation([1, 2, 3], 6)
    assert driver.tokens("b") == hand_continuation([5], 2)
    assert driver.tokens("c") == hand_continuation(list(range(20)), 3)


def test_the_wait_until_a_sequence_first_runs_is_told_and_a_preemption_does_not_begin_it_anew() -> None:
    """One at a time: b comes at 10 s while a runs, and starts when a has ended, at 12.5 s."""
    driver = Driver(hand_limits(max_running=1))
    driver.admit(request("a", [1], max_tokens=2))
    driver.now_s = 10.0
    driver.admit(request("b", [2], max_tokens=2))
    driver.step()
    driver.now_s = 12.5
    driver.step()
    driver.now_s = 20.0
    driver.finish()
    waits = {event.sequence_id: event.queued_s for event in driver.events}
    assert waits == {"a": 0.0, "b": 2.5}


def test_an_admission_waits_for_the_step_under_way() -> None:
    driver = Driver()
    driver.admit(request("a", [1], max_tokens=3), request("b", [2], max_tokens=3))
    assert {event.sequence_id for event in driver.step()} == {"a"}
    assert {event.sequence_id for event in driver.step()} == {"a", "b"}


def test_a_long_prompt_comes_in_chunks_and_gives_the_same_tokens() -> None:
    prompt = [position % 7 for position in range(60)]
    driver = Driver(hand_limits(max_step_tokens=8))
    driver.admit(request("a", prompt))
    for _ in range(7):
        assert driver.step() == []
    driver.finish()
    assert driver.tokens("a") == hand_continuation(prompt, 5)
    assert driver.transformer.largest_step == 8


def test_no_step_exceeds_its_budget() -> None:
    driver = Driver()
    driver.admit(*(request(f"s{n}", list(range(10 + n))) for n in range(8)))
    driver.finish()
    assert driver.transformer.largest_step == 16


def test_preempted_sequences_give_the_same_tokens() -> None:
    """Four sequences grow to 30 tokens, 8 blocks each; 13 blocks cannot hold them together."""
    driver = Driver(hand_limits(num_blocks=BlockCount(14, 20), max_context_tokens=40))
    prompts = {f"s{n}": [n + 1] * 6 for n in range(4)}
    driver.admit(*(request(name, prompt, max_tokens=24) for name, prompt in prompts.items()))
    driver.finish()
    assert driver.engine.stats(0.0).num_preemptions > 0
    for name, prompt in prompts.items():
        assert driver.tokens(name) == hand_continuation(prompt, 24)


def test_the_oldest_is_never_preempted() -> None:
    driver = Driver(hand_limits(num_blocks=BlockCount(14, 20), max_context_tokens=40))
    driver.admit(*(request(f"s{n}", [n + 1] * 6, max_tokens=24) for n in range(4)))
    driver.finish()
    ended = [event.sequence_id for event in driver.events if event.finish_reason]
    assert ended == ["s0", "s1", "s2", "s3"]


def test_urgent_sequences_run_first() -> None:
    """One runs at a time. `a` is running when the others come; lower numbers go first, equal ones in order."""
    driver = Driver(hand_limits(max_running=1))
    driver.admit(request("a", [1]), request("b", [2], priority=1), request("c", [3]), request("d", [4], priority=-1))
    driver.finish()
    ended = [event.sequence_id for event in driver.events if event.finish_reason]
    assert ended == ["a", "d", "c", "b"]


@pytest.mark.parametrize("moment", range(12))
def test_an_abort_at_any_moment_frees_everything_within_a_step(moment: int) -> None:
    driver = Driver(hand_limits(max_step_tokens=8))
    driver.admit(request("kept", [9, 8, 7], max_tokens=20))
    driver.admit(request("gone", list(range(30)), max_tokens=6))
    for _ in range(moment):
        driver.step()
    events = driver.abort("gone")
    is_over = [event.finish_reason for event in driver.events if event.sequence_id == "gone"][-1]
    assert events or is_over is FinishReason.LENGTH
    driver.step()
    blocks = driver.engine.stats(0.0).num_used_blocks
    driver.finish()
    assert blocks.full <= 6
    assert driver.tokens("kept") == hand_continuation([9, 8, 7], 20)
    assert driver.tokens("gone") == hand_continuation(list(range(30)), 6)[: len(driver.tokens("gone"))]
    assert driver.ending("gone").index + len(driver.ending("gone").token_ids) == len(driver.tokens("gone"))


def test_aborting_an_unknown_sequence_or_an_older_attempt_does_nothing() -> None:
    driver = Driver()
    driver.admit(request("a", [1], attempt=3))
    assert driver.abort("b") == []
    assert driver.abort("a", attempt=2) == []
    assert [event.finish_reason for event in driver.abort("a", attempt=3)] == [FinishReason.ABORT]
    assert driver.abort("a") == []
    driver.step()
    driver.finish()


def test_a_new_attempt_replaces_the_older_one_in_the_middle_of_a_step() -> None:
    driver = Driver()
    driver.admit(request("a", [1, 2], attempt=0))
    driver.step()
    released = driver.tokens("a")
    driver.admit(request("a", [1, 2, *released], num_released=len(released), attempt=1))
    driver.finish()
    assert [event.finish_reason for event in driver.events if event.attempt == 0] == [None, FinishReason.ABORT]
    tokens = [token for event in driver.events if event.attempt == 1 for token in event.token_ids]
    assert released + tokens == hand_continuation([1, 2], 5)


@pytest.mark.parametrize("num_released", range(1, 9))
@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 1.5},
        {"temperature": 1.5, "frequency_penalty": 1.0, "presence_penalty": 0.5},
        {"temperature": 1.5, "repetition_penalty": 1.7, "top_p": 0.9},
        {"temperature": 0.0, "frequency_penalty": 2.0},
    ],
    ids=str,
)
def test_a_resumed_sequence_goes_on_with_the_same_tokens(num_released: int, fields: dict[str, Any]) -> None:
    whole = run_alone(request("a", [3, 3, 1], max_tokens=9, **fields))
    driver = Driver()
    driver.admit(
        request("a", [3, 3, 1, *whole[:num_released]], max_tokens=9, num_released=num_released, attempt=1, **fields)
    )
    driver.finish()
    assert driver.events[0].index == num_released
    assert driver.tokens("a") == whole[num_released:]
    assert driver.finish_reason("a") is FinishReason.LENGTH


@pytest.mark.parametrize(
    ("fields", "released", "reason", "stop_reason"),
    [
        ({"max_tokens": 2}, [4, 5], FinishReason.LENGTH, None),
        ({"max_tokens": 9, "ignore_eos": False}, [4, EOS], FinishReason.STOP, EOS),
        ({"max_tokens": 9, "stop_token_ids": (7,)}, [7], FinishReason.STOP, 7),
        ({"max_tokens": 9, "stop": ("he",)}, [71, 68], FinishReason.STOP, "he"),
    ],
)
def test_a_resume_of_what_is_complete_ends_at_once(
    fields: dict[str, Any], released: list[int], reason: FinishReason, stop_reason: object
) -> None:
    """In o200k the ids 71 and 68 are the letters h and e."""
    driver = Driver()
    driver.admit(request("a", [1, *released], num_released=len(released), **fields))
    ending = driver.ending("a")
    assert (ending.finish_reason, ending.stop_reason, ending.index) == (reason, stop_reason, len(released))
    driver.finish()
    assert driver.transformer.num_steps == 0


def test_the_models_own_stop_id_ends_a_sequence_and_is_told() -> None:
    """The continuation of 3, 4 is 46, 17, ...: with 17 as the model's stop id it ends there."""
    driver = Driver(hand_limits(eos_ids=(17, EOS)))
    driver.admit(request("a", [3, 4], ignore_eos=False), request("b", [3, 4], max_tokens=4))
    driver.finish()
    assert driver.tokens("a") == [46, 17]
    assert (driver.finish_reason("a"), driver.ending("a").stop_reason) == (FinishReason.STOP, 17)
    assert len(driver.tokens("b")) == 4


def test_a_requests_stop_id_holds_even_where_eos_is_ignored() -> None:
    driver = Driver()
    driver.admit(request("a", [3, 4], stop_token_ids=(17,)))
    driver.finish()
    assert driver.tokens("a") == [46, 17]
    assert driver.ending("a").stop_reason == 17


def test_a_stop_on_the_last_allowed_token_counts_as_a_stop() -> None:
    driver = Driver()
    driver.admit(request("a", [3, 4], max_tokens=2, stop_token_ids=(17,)))
    driver.finish()
    assert driver.finish_reason("a") is FinishReason.STOP


def test_no_stop_comes_before_the_least_number_of_tokens() -> None:
    """17 would be second; it cannot be sampled there, and its neighbour 18 is the next best."""
    driver = Driver()
    driver.admit(request("a", [3, 4], max_tokens=30, min_tokens=4, stop_token_ids=(*range(0, 97, 2), 17)))
    driver.finish()
    tokens = driver.tokens("a")
    assert len(tokens) >= 4
    assert all(token % 2 and token != 17 for token in tokens[:3])
    assert driver.finish_reason("a") is FinishReason.STOP


class LetterTokenizer(Tokenizer):
    """Tokens as text: 0 to 25 are letters, 26 is the first half of é, 27 its second, the others are special."""

    def token_bytes(self, token_id: int) -> bytes:
        """Return the token's bytes."""
        if token_id in {26, 27}:
            return "é".encode()[token_id - 26 : token_id - 25]
        return chr(ord("a") + token_id).encode() if token_id < 26 else b"<>"

    def is_special(self, token_id: int) -> bool:
        """Return whether the token is neither a letter nor half of é."""
        return token_id > 27


@pytest.mark.parametrize(
    ("forced", "stop", "num_tokens", "stop_reason"),
    [
        ("abcd", ("bc",), 3, "bc"),
        ("abcd", ("x", "d", "cd"), 4, "cd"),
        ("ab<cd", ("bc",), 5, None),
        ("abEé", ("bé",), 4, "bé"),
        ("abab", ("z",), 4, None),
    ],
)
def test_a_stop_string_ends_a_sequence_with_the_token_that_completes_it(
    forced: str, stop: tuple[str, ...], num_tokens: int, stop_reason: str | None
) -> None:
    """The output is forced by the model: E and é are the halves of é, `<` is a special token."""
    ids = [{"<": 50, "E": 26, "é": 27}.get(letter, ord(letter) - ord("a")) for letter in forced]
    driver = Driver(tokenizer=LetterTokenizer)
    driver.transformer = _Forced(ids)
    driver.__post_init__()
    driver.admit(request("a", [1], max_tokens=len(ids), stop=stop))
    driver.finish()
    assert driver.tokens("a") == ids[:num_tokens]
    assert driver.ending("a").stop_reason == stop_reason
    assert driver.finish_reason("a") is (FinishReason.STOP if stop_reason else FinishReason.LENGTH)


@dataclasses.dataclass
class _Forced(HandTransformer):
    """A hand model that says what it is told to, token by token."""

    def __init__(self, ids: list[int]) -> None:
        super().__init__()
        self._ids = iter(ids)

    def _logits(self, *args: object, **named: object) -> list[float]:
        logits = [0.0] * 97
        logits[next(self._ids)] = 1.0
        return logits


def test_output_ends_where_the_context_does() -> None:
    driver = Driver(hand_limits(max_context_tokens=12))
    driver.admit(request("a", [1] * 10, max_tokens=50))
    driver.finish()
    assert len(driver.tokens("a")) == 2
    assert driver.finish_reason("a") is FinishReason.LENGTH


def test_the_whole_cache_can_be_used_by_one_sequence() -> None:
    """10 full blocks hold 40 tokens; 4 sliding ones are the fewest for a window of 6."""
    driver = Driver(hand_limits(num_blocks=BlockCount(11, 4), max_context_tokens=40))
    driver.admit(request("a", [1, 2, 3], max_tokens=100), request("b", [4], max_tokens=100))
    driver.finish()
    assert driver.tokens("a") == hand_continuation([1, 2, 3], 37)
    assert driver.tokens("b") == hand_continuation([4], 39)


def test_a_failed_step_ends_its_sequences_and_the_others_go_on() -> None:
    driver = Driver(hand_limits(max_running=2))
    driver.admit(request("a", [1]), request("b", [2]), request("c", [3]))
    driver.step()
    events = driver.fail("worker lost")
    assert {(event.sequence_id, event.finish_reason, event.error) for event in events} == {
        ("a", FinishReason.ERROR, "worker lost"),
        ("b", FinishReason.ERROR, "worker lost"),
    }
    driver.finish()
    assert driver.tokens("c") == hand_continuation([3], 5)
    assert driver.engine.stats(0.0).num_failed_steps == 1


def test_a_fatal_failure_ends_those_that_wait_too() -> None:
    driver = Driver(hand_limits(max_running=1))
    driver.admit(request("a", [1]), request("b", [2]))
    assert {event.sequence_id for event in driver.fail("a bug", is_fatal=True)} == {"a", "b"}
    driver.finish()


def test_a_sequence_whose_tokens_are_all_blocked_ends_with_an_error() -> None:
    driver = Driver()
    driver.admit(request("a", [1], max_tokens=9, min_tokens=1, stop_token_ids=tuple(range(97))), request("b", [1]))
    driver.finish()
    assert driver.finish_reason("a") is FinishReason.ERROR
    assert "no token can be sampled" in str(driver.ending("a").error)
    assert driver.tokens("b") == hand_continuation([1], 5)


def test_choices_of_one_request_draw_their_own_tokens() -> None:
    driver = Driver()
    driver.admit(*(request(f"c{n}", [5, 6], temperature=5.0, choice=n, max_tokens=8) for n in range(4)))
    driver.finish()
    tokens = [tuple(driver.tokens(f"c{n}")) for n in range(4)]
    assert len(set(tokens)) == 4
    assert list(tokens[2]) == run_alone(request("x", [5, 6], temperature=5.0, choice=2, max_tokens=8))


def test_logprobs_come_with_every_token_that_asks() -> None:
    """Logits fall by 1/4 from the best token on; the weights' sum is 1 / (1 - e^(-1/4)) but for e^(-97/4)."""
    best = math.log(1 - math.exp(-0.25))
    driver = Driver()
    driver.admit(request("a", [3, 4], max_tokens=3, num_logprobs=2), request("b", [3, 4], max_tokens=3))
    driver.finish()
    own = [event for event in driver.events if event.sequence_id == "a"]
    assert [event.logprobs[0].token_id for event in own] == driver.tokens("a")
    assert [token_id for token_id, _ in own[0].logprobs[0].top] == [46, 47]
    assert own[0].logprobs[0].logprob == pytest.approx(best, abs=1e-6)
    assert own[0].logprobs[0].top[1][1] == pytest.approx(best - 0.25, abs=1e-6)
    assert all(event.logprobs == () for event in driver.events if event.sequence_id == "b")


def test_digests_come_when_the_engine_is_told_to() -> None:
    digests: list[list[str]] = []
    for others in (0, 3):
        driver = Driver(hand_limits(has_logit_digests=True))
        driver.admit(request("a", [1, 2]), *(request(f"o{n}", [n]) for n in range(others)))
        driver.finish()
        digests.append([digest for event in driver.events if event.sequence_id == "a" for digest in event.digests])
    assert len(digests[0]) == 5
    assert digests[0] == digests[1]
    driver = Driver()
    driver.admit(request("a", [1, 2]))
    driver.finish()
    assert all(event.digests == () for event in driver.events)


def test_stats_count_what_happens() -> None:
    driver = Driver(hand_limits(max_running=1))
    driver.now_s = 5.0
    driver.admit(request("a", [1] * 5, max_tokens=2), request("b", [2]))
    stats = driver.engine.stats(9.0)
    assert (stats.num_running, stats.num_waiting, stats.longest_wait_s) == (1, 1, 4.0)
    assert stats.num_used_blocks == BlockCount(2, 2)
    driver.finish()
    stats = driver.engine.stats(9.0)
    assert (stats.num_tokens, stats.num_steps, stats.longest_wait_s) == (7, 7, 0.0)
