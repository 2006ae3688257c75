"""Whose turn it is: worked out by hand, then at the engine, where one tenant's many do not hold up another's few."""

import random
from dataclasses import replace
from typing import Any

import pytest

from cluster.engine.blocks import BlockCount
from cluster.engine.fair_shares import FairShares
from cluster.engine.sequence import Sequence, SequenceRequest
from cluster.engine.waiting_queue import WaitingQueue
from tests.cluster.engine.driver import Driver, hand_limits, request, run_alone


def of(tenant: str, name: str, prompt: list[int], weight: float = 1.0, **fields: Any) -> SequenceRequest:
    return replace(request(name, prompt, **fields), tenant=tenant, weight=weight)


def queue_of(*requests: SequenceRequest) -> tuple[WaitingQueue, FairShares]:
    shares = FairShares()
    queue = WaitingQueue(shares)
    for arrival, one in enumerate(requests):
        shares.join(one.tenant)
        queue.add(Sequence(one, arrival))
    queue.check_integrity()
    return queue, shares


def names(queue: WaitingQueue) -> str:
    return " ".join(sequence.request.sequence_id for sequence in queue)


def test_one_tenant_is_served_in_the_order_of_arrival_within_a_priority() -> None:
    queue, _ = queue_of(*(request(f"s{n}", [1] * (9 - n), priority=n % 3 - 1) for n in range(6)))
    assert names(queue) == "s0 s3 s1 s4 s2 s5"


def test_tenants_of_equal_prompts_take_turns() -> None:
    requests = [*(of("a", f"a{n}", [1] * 4) for n in range(4)), *(of("b", f"b{n}", [1] * 4) for n in range(2))]
    assert names(queue_of(*requests)[0]) == "a0 b0 a1 b1 a2 a3"


def test_long_prompts_take_a_larger_part_of_a_tenants_turns() -> None:
    """A pays 9 tokens for each of its own, b pays 3: times 9, 3, 6, then both have 9 and the older goes on."""
    requests = [*(of("a", f"a{n}", [1] * 9) for n in range(2)), *(of("b", f"b{n}", [1] * 3) for n in range(5))]
    assert names(queue_of(*requests)[0]) == "a0 b0 b1 b2 a1 b3 b4"


def test_twice_the_weight_gives_twice_the_turns() -> None:
    heavy = (of("a", f"a{n}", [1] * 4, weight=2.0) for n in range(4))
    light = (of("b", f"b{n}", [1] * 4) for n in range(2))
    assert names(queue_of(*heavy, *light)[0]) == "a0 b0 a1 a2 b1 a3"


def test_a_priority_goes_before_every_share() -> None:
    requests = [of("a", "a0", [1]), of("a", "a1", [1], priority=-1), of("a", "a2", [1], priority=-1), of("b", "b", [1])]
    assert names(queue_of(*requests)[0]) == "a1 a2 a0 b"


def test_a_tenant_of_whom_nothing_runs_goes_first() -> None:
    queue, shares = queue_of(of("a", "a0", [1]), of("a", "a1", [1]), of("b", "b0", [1]), of("b", "b1", [1]))
    shares.charge(of("b", "b", [1]), 50)
    shares.begin("a")
    assert names(queue) == "b0 a0 a1 b1"


def test_what_was_computed_counts_and_a_newcomer_starts_where_the_last_one_stands() -> None:
    queue, shares = queue_of(of("a", "a0", [1]), of("a", "a1", [1]), of("b", "b0", [1]))
    shares.charge(of("a", "a0", [1]), 10)
    shares.charge(of("b", "b0", [1]), 7)
    assert names(queue) == "b0 a0 a1"
    shares.join("c")
    assert shares.time_of("c") == 7


def test_who_leaves_and_comes_back_keeps_what_it_owes_but_saves_no_turns() -> None:
    shares = FairShares()
    for tenant in ("a", "b"):
        shares.join(tenant)
    shares.charge(of("a", "a", [1]), 50)
    shares.leave("a")
    shares.join("a")
    assert shares.time_of("a") == 50
    shares.leave("a")
    shares.charge(of("b", "b", [1]), 80)
    shares.join("a")
    assert shares.time_of("a") == 80


def test_nothing_is_remembered_of_tenants_once_nobody_is_inside() -> None:
    shares = FairShares()
    for number in range(1000):
        shares.join(f"t{number}")
        shares.charge(of(f"t{number}", "x", [1]), number)
        shares.leave(f"t{number}")
    shares.join("t5")
    assert shares.time_of("t5") == 0.0
    shares.check_integrity(["t5"], [])


def first_steps(driver: Driver) -> dict[str, int]:
    """Run to the end; return the step in which each sequence got its first token."""
    first: dict[str, int] = {}
    for step in range(10_000):
        if driver.plan is None:
            break
        for event in driver.step():
            first.setdefault(event.sequence_id, step)
    driver.finish()
    return first


FLOOD, FEW = 60, 3


def flooded(tenant_of_few: str, **limits: Any) -> tuple[Driver, dict[str, int]]:
    """Let one tenant ask for a lot, then, when its first run, somebody for a little; return who began when."""
    driver = Driver(hand_limits(max_waiting_sequences=200, num_blocks=BlockCount(81, 81), max_running=4, **limits))
    driver.admit(*(of("many", f"m{n}", [n % 90] * 6, max_tokens=30) for n in range(FLOOD)))
    driver.step()
    driver.admit(*(of(tenant_of_few, f"f{n}", [n] * 6, max_tokens=10) for n in range(FEW)))
    return driver, first_steps(driver)


def test_a_flood_of_one_tenant_does_not_starve_another() -> None:
    """The few begin in the next step and after each other; in the flood's own line they would be the last of all."""
    driver, first = flooded("few")
    assert first["f0"] <= 1
    assert all(first[f"f{n}"] < 30 for n in range(FEW))
    _, unfair = flooded("many")
    assert unfair["f0"] > 300, "the control: in one line with the flood"
    for n in range(FEW):
        assert driver.tokens(f"f{n}") == run_alone(of("few", "alone", [n] * 6, max_tokens=10))
    for n in range(FLOOD):
        assert driver.tokens(f"m{n}") == run_alone(of("many", "alone", [n % 90] * 6, max_tokens=30))


def test_only_the_first_of_a_tenant_takes_a_place_from_another() -> None:
    """Two places and two tenants: once each has one, nobody is preempted any more."""
    driver = Driver(hand_limits(max_running=2))
    driver.admit(*(of("a", f"a{n}", [n], max_tokens=12) for n in range(4)))
    driver.step()
    driver.admit(*(of("b", f"b{n}", [n], max_tokens=12) for n in range(4)))
    driver.finish()
    assert driver.engine.stats(0.0).num_preemptions == 1


def test_a_newcomer_of_lower_priority_takes_no_place_from_others() -> None:
    driver = Driver(hand_limits(max_running=2))
    driver.admit(*(of("a", f"a{n}", [n], max_tokens=12) for n in range(2)))
    driver.step()
    driver.admit(of("b", "b", [1], priority=1))
    driver.finish()
    assert driver.engine.stats(0.0).num_preemptions == 0


@pytest.mark.parametrize("weight", [1.0, 3.0])
def test_tenants_who_always_want_more_get_tokens_by_their_weights(weight: float) -> None:
    """Over a while in which both have enough to do; prompts and answers are of all lengths."""
    chance = random.Random(4)
    driver = Driver(hand_limits(max_waiting_sequences=400, max_running=4))
    for n in range(150):
        sizes = [(chance.randint(1, 20), chance.randint(1, 20)) for _ in "ab"]
        driver.admit(of("a", f"a{n}", [n % 90] * sizes[0][0], max_tokens=sizes[0][1], weight=weight))
        driver.admit(of("b", f"b{n}", [n % 90] * sizes[1][0], max_tokens=sizes[1][1]))
    rows = {"a": 0, "b": 0}
    while all(sum(one.sequence_id.startswith(name) for one in driver.events) < 900 for name in rows):
        assert driver.plan is not None
        for chunk in driver.plan.chunks:
            rows[chunk.sequence.request.tenant] += chunk.num_rows
        driver.step()
    assert rows["a"] / rows["b"] == pytest.approx(weight, rel=0.12)
    driver.finish()


@pytest.mark.parametrize("seed", range(8))
def test_tokens_do_not_depend_on_tenants_and_weights(seed: int) -> None:
    """The same requests, under random tenants, in an engine that is short of places and blocks."""
    chance = random.Random(seed)
    driver = Driver(hand_limits(max_running=3, num_blocks=BlockCount(26, 26), max_step_tokens=9))
    expected: dict[str, list[int]] = {}
    for n in range(14):
        fields = {"max_tokens": chance.randint(1, 12), "temperature": 5.0, "seed": n}
        one = of(chance.choice("abcd"), f"s{n}", [n] * chance.randint(1, 20), chance.choice([0.5, 1.0, 4.0]), **fields)
        expected[f"s{n}"] = run_alone(replace(one, tenant="", weight=1.0))
        driver.admit(replace(one, priority=chance.choice([0, 0, 1])))
        for _ in range(chance.randint(0, 4)):
            if driver.plan:
                driver.step()
    driver.finish()
    assert {name: driver.tokens(name) for name in expected} == expected
