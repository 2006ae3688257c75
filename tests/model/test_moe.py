"""The gate, the combine and the seam between them, worked out by hand."""

import math

import pytest
import torch

from model.moe import GateOutput, HandExperts, TopKGate, combine


def gate_with_scores(scores: list[float], num_chosen: int) -> GateOutput:
    """Return the choice of a gate that scores one token so: its weight is zero and its bias the scores."""
    gate = TopKGate(torch.zeros(len(scores), 32), torch.tensor(scores), num_chosen)
    return gate.choose(torch.ones(1, 32))


def test_the_best_scores_are_chosen_best_first() -> None:
    assert gate_with_scores([0.5, 3.0, -1.0, 2.0], 2).expert_ids.tolist() == [[1, 3]]


def test_equal_scores_go_to_the_lower_expert() -> None:
    assert gate_with_scores([1.0] * 40, 4).expert_ids.tolist() == [[0, 1, 2, 3]]
    assert gate_with_scores([0.0, 7.0, 1.0, 7.0, 1.0], 3).expert_ids.tolist() == [[1, 3, 2]]


def test_weights_are_the_softmax_over_the_chosen_scores_only() -> None:
    """Scores ln 3 and ln 1 weigh 3/4 and 1/4, whatever the score that was not chosen."""
    weights = gate_with_scores([math.log(3), -50.0, 0.0], 2).weights
    torch.testing.assert_close(weights, torch.tensor([[0.75, 0.25]]), rtol=1e-6, atol=0)


def test_hand_experts_multiply_by_one_more_than_their_id() -> None:
    hidden = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    gate = GateOutput(torch.tensor([[0, 4], [1, 2]]), torch.ones(2, 2))
    outputs = HandExperts().submit(0, hidden, gate).wait()
    assert outputs.tolist() == [[[1, 2], [5, 10]], [[6, 8], [9, 12]]]


def test_combine_weighs_each_pair_and_sums() -> None:
    outputs = torch.tensor([[[1.0, 2.0], [10.0, 20.0]]])
    assert combine(outputs, torch.tensor([[0.5, 0.25]])).tolist() == [[3.0, 6.0]]


def test_combine_adds_in_the_gates_order() -> None:
    """(2**24 - 2**24) + 1 is 1; in any order that adds the 1 earlier it is lost to rounding."""
    big = 2.0**24
    outputs = torch.tensor([[[big], [-big], [1.0]]])
    assert combine(outputs, torch.ones(1, 3)).item() == 1.0
    assert combine(outputs[:, [0, 2, 1]], torch.ones(1, 3)).item() == 0.0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_combine_sums_in_float32_whatever_the_wire_carries(dtype: torch.dtype) -> None:
    """1 + 2**-10 needs more bits than bf16 has."""
    outputs = torch.tensor([[[1.0], [2.0**-10]]], dtype=dtype)
    assert combine(outputs, torch.ones(1, 2)).item() == 1 + 2.0**-10
