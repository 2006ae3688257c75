"""The journal under random losses, repeats, late events and gaps: every token once, in order, as if undisturbed."""

import random

import pytest

from cluster.engine.sequence import FinishReason, SequenceRequest, TokenEvent
from cluster.errors import ContextOverflow, EngineStopped, HandshakeRefused, QueueFull
from model.sampling_params import SamplingParams
from router.journal import Fail, Journal, Release, Resume, ResumeLimits

PROMPT = (5, 6, 7)
OUTPUT = tuple(range(100, 140))


def request(num_released: int = 0) -> SequenceRequest:
    """Return a request for the output, its first ids released by somebody earlier."""
    return SequenceRequest("s", (*PROMPT, *OUTPUT[:num_released]), SamplingParams(max_tokens=40, seed=1), num_released)


def event(attempt: int, index: int, num_tokens: int = 1) -> TokenEvent:
    """Return the undisturbed run's tokens from `index` on."""
    is_last = index + num_tokens >= len(OUTPUT)
    token_ids = OUTPUT[index : index + num_tokens]
    digests = tuple(f"digest-{token_id}" for token_id in token_ids)
    reason = FinishReason.LENGTH if is_last else None
    return TokenEvent("s", attempt, index, token_ids, digests=digests, finish_reason=reason)


def disturbed(seed: int) -> list[TokenEvent]:
    """Return what a choice releases while its attempts are lost and events come late, twice or not at all."""
    chance = random.Random(seed)
    journal = Journal(request(), ResumeLimits(max_resumes=1000, max_wait_s=1e9))
    released: list[TokenEvent] = []
    sent: list[TokenEvent] = []
    for now_s in range(10_000):
        attempt = journal.next_attempt()
        if attempt is None:
            return released
        assert attempt.prompt_ids == (*PROMPT, *OUTPUT[: attempt.num_released])
        index = attempt.num_released
        is_lost = False
        while not is_lost and index < len(OUTPUT):
            fresh = event(attempt.attempt, index, chance.randint(1, 3))
            index += len(fresh.token_ids)
            sent.append(fresh)
            coming = [fresh] * (chance.random() > 0.1) + chance.sample(sent, min(2, len(sent)))
            for one in coming:
                action = journal.on_event(one, now_s)
                if isinstance(action, Release):
                    released.append(action.event)
                is_lost = is_lost or isinstance(action, Resume)
            if not is_lost and chance.random() < 0.2:
                action = journal.on_lost(EngineStopped("killed"), True, now_s)
                is_lost = isinstance(action, Resume)
        if not is_lost:
            journal.on_lost(EngineStopped("the last token never came"), True, now_s)
    raise AssertionError(f"seed {seed}: no end")


@pytest.mark.parametrize("first_seed", range(0, 500, 100))
def test_every_token_is_released_once_and_in_order(first_seed: int) -> None:
    for seed in range(first_seed, first_seed + 100):
        events = disturbed(seed)
        assert tuple(token for one in events for token in one.token_ids) == OUTPUT, seed
        assert [digest for one in events for digest in one.digests] == [f"digest-{token}" for token in OUTPUT], seed
        assert [one.finish_reason for one in events if one.finish_reason] == [FinishReason.LENGTH], seed


def test_a_resume_carries_the_released_ids_and_runs_before_new_work() -> None:
    journal = Journal(request(num_released=2), ResumeLimits())
    assert journal.next_attempt() == request(num_released=2)
    assert isinstance(journal.on_event(event(0, 2, 3), 0.0), Release)
    assert isinstance(journal.on_lost(EngineStopped("killed"), True, 1.0), Resume)
    resumed = journal.next_attempt()
    assert resumed is not None
    assert (resumed.prompt_ids, resumed.num_released) == ((*PROMPT, *OUTPUT[:5]), 5)
    assert (resumed.attempt, resumed.priority, resumed.params) == (1, -1, request().params)


def test_losses_without_a_new_token_are_counted_and_progress_forgives_them() -> None:
    journal = Journal(request(), ResumeLimits(max_resumes=2))
    for index in range(6):
        attempt = journal.next_attempt()
        assert attempt is not None
        journal.on_event(event(attempt.attempt, index), 0.0)
        assert isinstance(journal.on_lost(EngineStopped("killed"), True, 0.0), Resume)
    outcomes = [journal.on_lost(EngineStopped("killed"), True, 0.0) for _ in range(2)]
    assert [type(outcome) for outcome in outcomes] == [Resume, Fail]
    assert journal.next_attempt() is None


def test_waiting_for_a_replica_ends_with_its_limit() -> None:
    journal = Journal(request(), ResumeLimits(max_resumes=0, max_wait_s=10.0))
    journal.next_attempt()
    assert isinstance(journal.on_lost(EngineStopped("none there"), False, 0.0), Resume)
    assert isinstance(journal.on_lost(EngineStopped("none there"), False, 10.0), Resume)
    assert isinstance(journal.on_lost(EngineStopped("none there"), False, 10.1), Fail)


def test_a_full_queue_refuses_new_work_and_only_delays_a_resume() -> None:
    journal = Journal(request(), ResumeLimits())
    journal.next_attempt()
    assert isinstance(journal.on_lost(EngineStopped("killed"), True, 0.0), Resume)
    journal.next_attempt()
    assert isinstance(journal.on_lost(QueueFull("full"), False, 0.0), Resume)
    for error in (QueueFull("full"), ContextOverflow("long")):
        fresh = Journal(request(), ResumeLimits())
        fresh.next_attempt()
        assert fresh.on_lost(error, False, 0.0) == Fail(error)


def test_a_cancelled_choice_is_never_resumed() -> None:
    journal = Journal(request(), ResumeLimits())
    journal.next_attempt()
    assert isinstance(journal.on_lost(EngineStopped("killed"), True, 0.0), Resume)
    journal.cancel()
    assert journal.next_attempt() is None
    assert journal.on_event(event(0, 0), 0.0) is None
    assert journal.on_lost(EngineStopped("killed"), True, 0.0) is None


def test_released_tokens_bind_a_choice_to_their_numerics() -> None:
    journal = Journal(request(), ResumeLimits())
    journal.next_attempt()
    journal.bind("a")
    journal.bind("b")
    journal.on_event(event(0, 0), 0.0)
    journal.bind("b")
    with pytest.raises(HandshakeRefused, match="began with numerics b"):
        journal.bind("a")
