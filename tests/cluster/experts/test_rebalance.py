"""Rebalancing: slots kept, never two copies on one worker, few loads a round, and even enough soon after a shift."""

import numpy as np
import pytest

from cluster.experts.placement import IntArray, Placement, moves, with_spare_copies
from cluster.experts.rebalance import BalanceLimits, balance_plan, imbalance, rebalanced, residence, worker_loads
from cluster.experts.traffic import ExpertTraffic, FloatArray, traffic_shares
from tests.cluster.experts.hand import names

LAYERS, EXPERTS, WORKERS = 4, 32, 8
STEP_TOKENS, CHOSEN = 1024, 4


def skewed(rng: np.random.Generator, spread: float = 0.9) -> FloatArray:
    """Return shares [L, E] as uneven as a subject's are: some experts get five times the mean, some nearly nothing."""
    weights = np.exp(rng.normal(0.0, spread, (LAYERS, EXPERTS)))
    return weights / weights.sum(axis=1, keepdims=True)


def drawn(rng: np.random.Generator, shares: FloatArray) -> IntArray:
    """Return [L, T, K] different experts for each token, drawn by these shares."""
    scores = np.log(shares)[:, None, :] + rng.gumbel(size=(LAYERS, STEP_TOKENS, EXPERTS))
    return np.argpartition(-scores, CHOSEN, axis=2)[:, :, :CHOSEN]


def spare_placement(copies: int = 1) -> Placement:
    return with_spare_copies(Placement.uniform(LAYERS, EXPERTS, names(WORKERS), copies), 1)


def check(old: Placement, new: Placement, limits: BalanceLimits) -> None:
    """Hold a round to its bounds; a Placement refuses two copies on one worker by itself."""
    assert len(moves(old, new).puts) <= limits.max_loads_per_round
    assert (residence(new).sum(axis=1) == residence(old).sum(axis=1)).all(), "a worker's slots in a layer are kept"
    least = np.minimum(residence(old).sum(axis=2), limits.min_copies)
    assert (residence(new).sum(axis=2) >= least).all(), "copies that are needed are kept"


@pytest.mark.parametrize("seed", range(3))
def test_the_workers_are_even_within_fifty_steps_of_another_domain(seed: int) -> None:
    """A round every other step, with the loads for each layer that a model of 24 layers would get of 16."""
    rng = np.random.default_rng(seed)
    limits = BalanceLimits(max_loads_per_round=3)
    placement = rebalanced(spare_placement(), skewed(rng), BalanceLimits(max_loads_per_round=10_000))
    traffic, shares = ExpertTraffic(LAYERS, EXPERTS), skewed(rng)

    def unevenness() -> float:
        return float(np.mean([imbalance(*layer) for layer in zip(residence(placement), shares, strict=True)]))

    assert unevenness() > 1.3
    for step in range(50):
        for layer, expert_ids in enumerate(drawn(rng, shares)):
            traffic.add(layer, expert_ids)
        if step % 2:
            new = rebalanced(placement, traffic_shares(traffic.pairs()), limits)
            check(placement, new, limits)
            placement = new
    assert unevenness() <= 1.15


@pytest.mark.parametrize("min_copies", [1, 2])
def test_copies_against_failures_are_never_given_up(min_copies: int) -> None:
    rng = np.random.default_rng(7)
    limits = BalanceLimits(max_loads_per_round=6, min_copies=min_copies)
    placement = spare_placement(min_copies)
    for _ in range(4):
        new = rebalanced(placement, skewed(rng, spread=2.0), limits)
        assert new is not placement
        check(placement, new, limits)
        placement = new


def test_even_traffic_moves_nothing() -> None:
    placement = Placement.uniform(LAYERS, EXPERTS, names(WORKERS), 2)
    plan = balance_plan(placement, np.full((LAYERS, EXPERTS), 1 / EXPERTS), BalanceLimits())
    assert plan.placement is placement
    assert plan.imbalance == pytest.approx(1.0, abs=1e-4)


def test_a_swap_is_worked_out_by_hand() -> None:
    """A holds shares 0.4 and 0.3, b 0.2 and 0.1: 0.4 and 0.3 part, and 0.3 + 0.2 or 0.4 + 0.1 stand even."""
    placement = Placement(4, 1, 4, ("a", "b"), (((0,), (0,), (1,), (1,)),))
    shares = np.array([[0.4, 0.3, 0.2, 0.1]])
    plan = balance_plan(placement, shares, BalanceLimits())
    assert plan.imbalance == pytest.approx(1.4)
    assert plan.placement.epoch == 5
    assert worker_loads(residence(plan.placement)[0], shares[0]).tolist() == pytest.approx([0.5, 0.5])


def test_a_swap_that_a_round_may_not_pay_for_is_left_alone() -> None:
    placement = Placement(4, 1, 4, ("a", "b"), (((0,), (0,), (1,), (1,)),))
    shares = np.array([[0.4, 0.3, 0.2, 0.1]])
    assert rebalanced(placement, shares, BalanceLimits(max_loads_per_round=1)) is placement


def test_a_copied_expert_is_shared_evenly_by_hand() -> None:
    """Expert 0 (0.6) on both; a has 0.3 of its own, b 0.1: poured level, both compute 0.5."""
    holds = np.array([[True, True], [True, False], [False, True]])
    assert worker_loads(holds, np.array([0.6, 0.3, 0.1])).tolist() == pytest.approx([0.5, 0.5])


def test_older_tokens_count_less() -> None:
    """Ten tokens of expert 0, then ten of expert 1 with a half-life of ten tokens: 5 to 10."""
    traffic = ExpertTraffic(1, 3, half_life_tokens=10)
    traffic.add(0, np.zeros((10, 1), dtype=np.int64))
    traffic.add(0, np.ones((10, 1), dtype=np.int64))
    assert traffic.pairs().tolist() == [[5.0, 10.0, 0.0]]
    assert traffic_shares(traffic.pairs()).tolist() == [[5 / 15, 10 / 15, 0.0]]
    assert traffic_shares(np.zeros((1, 4))).tolist() == [[0.25] * 4]


@pytest.mark.parametrize(("copies", "num_slots"), [(1, 1), (1, 3), (2, 2), (8, 1)])
def test_spare_slots_are_filled_evenly_and_differ_between_layers(copies: int, num_slots: int) -> None:
    uniform = Placement.uniform(LAYERS, EXPERTS, names(WORKERS), copies)
    spared = residence(with_spare_copies(uniform, num_slots))
    more = num_slots if copies < WORKERS else 0
    assert (spared.sum(axis=1) == EXPERTS * copies // WORKERS + more).all()
    assert (spared & residence(uniform) == residence(uniform)).all()
    assert int(spared.sum(axis=2).max()) <= copies + (more > 0)
    if more:
        assert (spared[0] != spared[1]).any()
