"""Hundreds of engines under random orders of admissions, aborts, steps and failures, each from one seed.

After every event the books balance (the driver sees to that), and in the end every sequence has the tokens that
the model and the sampler give it alone, without any engine, up to where it was cut short.
"""

import random
from dataclasses import replace
from typing import Any

import pytest
import torch

from cluster.engine.blocks import BlockCount
from cluster.engine.sequence import FinishReason, SequenceRequest
from model.sampler import SampleRow, sample
from tests.cluster.engine.driver import EOS, Driver, hand_limits, request
from tests.cluster.engine.hand_transformer import STEP, VOCAB_SIZE, hand_target

NUM_SEEDS = 200
MAX_CONTEXT = 60


def _random_prompt(chance: random.Random) -> list[int]:
    """Return a prompt that begins like others, mostly: one of three beginnings, cut anywhere."""
    beginning = [root * 7 + place % 5 for root in [chance.randrange(3)] for place in range(chance.randint(0, 24))]
    own = [chance.randrange(96) for _ in range(chance.randint(1, 30 - len(beginning)))]
    return [*beginning, *own] if chance.random() < 0.8 else own


def _random_request(chance: random.Random, name: str) -> SequenceRequest:
    temperature = chance.choice([0.0, 1.0, 5.0])
    kinds: list[dict[str, Any]] = [{}, {}, {"top_p": 0.8}, {"top_k": 5}, {"min_p": 0.1}, {"frequency_penalty": 1.0}]
    one = request(
        name,
        _random_prompt(chance),
        priority=chance.choice([0, 0, 0, 1, -1]),
        seed=chance.randrange(1000),
        choice=chance.randrange(3),
        max_tokens=chance.randint(1, 25),
        temperature=temperature,
        ignore_eos=chance.random() < 0.5,
        stop_token_ids=tuple(chance.sample(range(97), chance.choice([0, 0, 5]))),
        num_logprobs=chance.choice([None, None, 2]),
        **chance.choice(kinds),
    )
    return replace(one, tenant=chance.choice(["", "", "a", "b"]), weight=chance.choice([0.5, 1.0, 2.0]))


def _random_driver(chance: random.Random) -> Driver:
    """Return an engine that is short of something: blocks of either group, slots, or budget."""
    max_running = chance.randint(1, 6)
    num_blocks = BlockCount(chance.randint(16, 40), chance.randint(4, 30))
    max_step_tokens = chance.randint(max_running, 24)
    return Driver(
        hand_limits(
            num_blocks=num_blocks,
            max_context_tokens=MAX_CONTEXT,
            max_running=max_running,
            max_step_tokens=max_step_tokens,
        )
    )


def _play(chance: random.Random, driver: Driver) -> dict[str, SequenceRequest]:
    """Give the engine random events; return all requests."""
    requests: dict[str, SequenceRequest] = {}
    for _ in range(chance.randint(20, 60)):
        roll = chance.random()
        if roll < 0.3:
            name = f"s{len(requests)}"
            requests[name] = _random_request(chance, name)
            driver.admit(requests[name])
        elif roll < 0.36 and requests:
            driver.abort(chance.choice(list(requests)))
        elif roll < 0.38 and driver.plan:
            driver.fail()
        elif driver.plan:
            driver.step()
    driver.finish()
    return requests


def _tokens_alone(one: SequenceRequest) -> list[int]:
    """Return a request's tokens as the model and the sampler give them, one after the other."""
    token_ids, num_prompt = list(one.prompt_ids), len(one.prompt_ids)
    stop_ids = {*one.params.stop_token_ids, *(() if one.params.ignore_eos else (EOS,))}
    for _ in range(min(one.params.max_tokens, MAX_CONTEXT - num_prompt)):
        target = hand_target(token_ids)
        logits = [-STEP * ((token - target) % VOCAB_SIZE) for token in range(VOCAB_SIZE)]
        token_id = sample(torch.tensor([logits]), [SampleRow(one.params, token_ids, num_prompt)])[0].token_id
        assert token_id is not None
        token_ids.append(token_id)
        if token_id in stop_ids:
            break
    return token_ids[num_prompt:]


@pytest.mark.parametrize("seed", range(NUM_SEEDS))
def test_no_order_of_events_changes_a_token_or_loses_a_block(seed: int) -> None:
    chance = random.Random(seed)
    driver = _random_driver(chance)
    requests = _play(chance, driver)
    for name, one in requests.items():
        alone = _tokens_alone(one)
        tokens, reason = driver.tokens(name), driver.finish_reason(name)
        if reason in {FinishReason.STOP, FinishReason.LENGTH}:
            assert tokens == alone, name
        else:
            assert tokens == alone[: len(tokens)], name
        if reason is FinishReason.STOP:
            assert tokens[-1] in {*one.params.stop_token_ids, EOS}


def test_the_schedules_above_preempt_chunk_and_wait() -> None:
    """If they did not, they would prove little."""
    preemptions, chunked, failed = 0, 0, 0
    for seed in range(40):
        chance = random.Random(seed)
        driver = _random_driver(chance)
        requests = _play(chance, driver)
        stats = driver.engine.stats(0.0)
        preemptions += stats.num_preemptions > 0
        failed += stats.num_failed_steps > 0
        chunked += any(len(one.prompt_ids) > driver.limits.step.max_step_tokens for one in requests.values())
    assert min(preemptions, chunked, failed) > 4, (preemptions, chunked, failed)
