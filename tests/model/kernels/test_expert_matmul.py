"""Experts' matmuls over grouped rows: laid out in whole tiles, right, and blind to who shares an expert."""

import torch

from model.kernels.expert_matmul import expert_matmul, group_by_expert
from model.kernels.linear import ROW_TILE, linear
from tests.support.row_independence import find_dependence, same_bits

NUM_EXPERTS, INPUTS, OUTPUTS = 5, 64, 48


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


WEIGHTS = random(NUM_EXPERTS, OUTPUTS, INPUTS, seed=1)
BIASES = random(NUM_EXPERTS, OUTPUTS, seed=2)


def weights(expert: int) -> tuple[torch.Tensor, torch.Tensor]:
    return WEIGHTS[expert], BIASES[expert]


def run(rows: torch.Tensor, expert_ids: torch.Tensor) -> torch.Tensor:
    groups = group_by_expert(expert_ids)
    padded = torch.zeros(groups.num_rows, rows.shape[1])
    padded[groups.slots] = rows
    return expert_matmul(padded, groups, weights)[groups.slots]


def test_each_expert_gets_whole_tiles_and_its_rows_keep_their_order() -> None:
    """Experts 3, 0, 3, 3: expert 0 fills tile 0 with pair 1, expert 3 tile 1 with pairs 0, 2, 3."""
    groups = group_by_expert(torch.tensor([3, 0, 3, 3]))
    assert groups.experts == (0, 3)
    assert groups.first_row == (0, ROW_TILE, 2 * ROW_TILE)
    assert groups.slots.tolist() == [ROW_TILE, 0, ROW_TILE + 1, ROW_TILE + 2]


def test_a_full_tile_is_followed_by_the_next_expert_and_an_overfull_one_by_a_second_tile() -> None:
    full = group_by_expert(torch.tensor([1] * ROW_TILE + [2]))
    assert full.first_row == (0, ROW_TILE, 2 * ROW_TILE)
    overfull = group_by_expert(torch.tensor([1] * (ROW_TILE + 1) + [2]))
    assert overfull.first_row == (0, 2 * ROW_TILE, 3 * ROW_TILE)


def test_every_pair_is_its_experts_own_linear() -> None:
    for num_pairs in (1, 7, 33):
        rows = random(num_pairs, INPUTS, seed=num_pairs)
        expert_ids = torch.arange(num_pairs) * 3 % NUM_EXPERTS
        out = run(rows, expert_ids)
        for pair, expert in enumerate(expert_ids.tolist()):
            assert same_bits(out[pair : pair + 1], linear(rows[pair : pair + 1], *weights(expert)))


def test_expert_matmul_is_row_independent() -> None:
    rows = torch.cat(((torch.arange(64.0) * 7 % NUM_EXPERTS)[:, None], random(64, INPUTS, seed=3)), dim=1)
    assert find_dependence(lambda rows: run(rows[:, 1:], rows[:, 0].long()), rows) is None
