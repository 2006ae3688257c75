"""Dispatch plans: every pair once, every row once a worker, only to copies; and few workers or balanced ones."""

import numpy as np
import pytest
import torch

from cluster.experts.dispatch_plan import EXPERT_COST_ROWS, DispatchPlan, choose_copies, dispatch_plan, reachable
from cluster.experts.placement import NO_COPY, IntArray, Placement
from model.moe import GateOutput, HandExperts

SIZES = [(1, 1), (1, 4), (2, 2), (3, 4), (7, 4), (33, 2), (64, 4)]


def random_case(seed: int, num_tokens: int, num_chosen: int) -> tuple[IntArray, IntArray, np.ndarray]:
    """Return expert ids [T, K], copies [E, C] and which of W workers are available."""
    rng = np.random.default_rng(seed)
    num_experts, num_workers = int(rng.integers(num_chosen, 12)), int(rng.integers(1, 6))
    num_copies = int(rng.integers(1, num_workers + 1))
    placement = Placement.uniform(1, num_experts, [str(worker) for worker in range(num_workers)], num_copies)
    expert_ids = np.stack([rng.permutation(num_experts)[:num_chosen] for _ in range(num_tokens)])
    return expert_ids, placement.copy_table()[0], rng.random(num_workers) < 0.8


def answers(plan: DispatchPlan, hidden: torch.Tensor, num_chosen: int) -> torch.Tensor:
    """Carry the plan out with hand experts; what nobody computes stays NaN."""
    outputs = torch.full((hidden.shape[0] * num_chosen, hidden.shape[1]), float("nan"))
    for send in plan.sends:
        rows = hidden[send.row_ids][send.pair_rows]
        outputs[send.positions] = rows * torch.from_numpy(send.expert_ids + 1)[:, None]
    return outputs.view(hidden.shape[0], num_chosen, -1)


@pytest.mark.parametrize(("num_tokens", "num_chosen"), SIZES)
@pytest.mark.parametrize("seed", range(8))
def test_a_plan_computes_what_hand_experts_do(seed: int, num_tokens: int, num_chosen: int) -> None:
    expert_ids, copies, is_available = random_case(seed, num_tokens, num_chosen)
    hidden = torch.randn(num_tokens, 3)
    plan = dispatch_plan(expert_ids, reachable(copies, is_available), is_available.shape[0])
    gate = GateOutput(torch.from_numpy(expert_ids), torch.ones(num_tokens, num_chosen))
    expected = HandExperts().submit(0, hidden, gate).wait().clone()
    expected.view(num_tokens * num_chosen, -1)[plan.unplaced] = float("nan")
    assert torch.equal(answers(plan, hidden, num_chosen).nan_to_num(), expected.nan_to_num())


@pytest.mark.parametrize(("num_tokens", "num_chosen"), SIZES)
@pytest.mark.parametrize("seed", range(8))
def test_every_pair_goes_once_and_only_to_a_reachable_copy(seed: int, num_tokens: int, num_chosen: int) -> None:
    expert_ids, copies, is_available = random_case(seed, num_tokens, num_chosen)
    plan = dispatch_plan(expert_ids, reachable(copies, is_available), is_available.shape[0])
    positions = np.concatenate([*(send.positions for send in plan.sends), plan.unplaced])
    assert sorted(positions.tolist()) == list(range(expert_ids.size))
    for send in plan.sends:
        assert is_available[send.worker]
        assert all(send.worker in copies[expert] for expert in send.expert_ids)
        assert send.row_ids.tolist() == sorted(set((send.positions // num_chosen).tolist()))
    for expert in expert_ids.reshape(-1)[plan.unplaced]:
        assert not any(is_available[worker] for worker in copies[expert] if worker != NO_COPY)


def test_one_plan_is_worked_out_by_hand() -> None:
    """Experts 0 and 2 live on worker 0, expert 1 on worker 1; row 1 goes to both, row 0 to worker 0 only, once."""
    plan = dispatch_plan(np.array([[0, 2], [1, 0]]), np.array([[0], [1], [0]]), num_workers=2)
    first, second = plan.sends
    assert (first.worker, first.row_ids.tolist(), first.positions.tolist()) == (0, [0, 1], [0, 1, 3])
    assert (first.pair_rows.tolist(), first.expert_ids.tolist()) == ([0, 0, 1], [0, 2, 0])
    assert (second.worker, second.row_ids.tolist(), second.positions.tolist()) == (1, [1], [2])
    assert plan.unplaced.size == 0


def test_some_positions_alone_can_be_planned() -> None:
    expert_ids, copies = np.array([[0, 1], [1, 0]]), np.array([[0], [NO_COPY]])
    plan = dispatch_plan(expert_ids, copies, 2, np.array([2, 3]))
    assert [send.positions.tolist() for send in plan.sends] == [[3]]
    assert plan.unplaced.tolist() == [2]


def test_no_rows_need_no_sends() -> None:
    plan = dispatch_plan(np.zeros((0, 4), dtype=np.int64), np.array([[0, 1]]), num_workers=2)
    assert plan.sends == ()
    assert plan.unplaced.size == 0


def test_few_rows_go_to_as_few_workers_as_hold_their_experts() -> None:
    copies = Placement.uniform(1, 8, list("abcd"), copies=2).copy_table()[0]
    plan = dispatch_plan(np.array([[0, 3, 4, 7]]), copies, num_workers=4)
    holders = [set(copies[expert].tolist()) for expert in (0, 3, 4, 7)]
    fewest = min(n for n in range(1, 5) for pick in _subsets(4, n) if all(each & pick for each in holders))
    assert len(plan.sends) == fewest


def _subsets(count: int, size: int) -> list[set[int]]:
    return [{i for i in range(count) if bits >> i & 1} for bits in range(2**count) if bits.bit_count() == size]


def test_many_rows_are_balanced_over_the_copies() -> None:
    """Both workers hold all experts: 56 rows of expert 0 weigh as much as 20 each of experts 1 and 2."""
    num_rows = np.array([20 + 20 + EXPERT_COST_ROWS, 20, 20])
    chosen = choose_copies(num_rows, np.array([[0, 1]] * 3), num_workers=2)
    assert chosen.tolist() == [0, 1, 1]


def test_the_plan_for_many_rows_takes_no_time_per_row() -> None:
    """The same experts for eight times the rows: the same number of sends, and all rows in them."""
    copies = Placement.uniform(1, 8, list("abcd"), copies=2).copy_table()[0]
    small, large = (np.tile(np.arange(8).reshape(2, 4), (repeat, 1)) for repeat in (32, 256))
    for expert_ids in (small, large):
        plan = dispatch_plan(expert_ids, copies, num_workers=4)
        assert len(plan.sends) == 4
        assert [send.positions.size for send in plan.sends] == [expert_ids.size // 4] * 4
