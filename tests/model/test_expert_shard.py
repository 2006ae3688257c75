"""ExpertShard: what it holds, what it answers, and that where it holds it changes nothing."""

import torch

from model.checkpoint.random_weights import RandomWeights
from model.expert_shard import ExpertShard
from model.moe import GateOutput
from model.mxfp4 import dequantize
from model.numerics import Numerics
from tests.support.random_model import random_config
from tests.support.row_independence import find_dependence, same_bits

CONFIG = random_config(num_layers=2, num_experts=6)
SOURCE = RandomWeights(CONFIG, seed=3)


def shard_with(*keys: tuple[int, int], mode: str = "precise", dequantized_bytes: int = 0) -> ExpertShard:
    """Return a shard that holds the experts `keys`."""
    shard = ExpertShard(CONFIG, Numerics.of(mode), "cpu", dequantized_bytes)
    for layer, expert in keys:
        shard.put(layer, expert, SOURCE.expert(layer, expert))
    return shard


def rows(count: int) -> torch.Tensor:
    """Return random rows that bf16 holds exactly."""
    return torch.randn(count, CONFIG.hidden_size, generator=torch.Generator().manual_seed(9)).bfloat16()


def test_put_and_drop_decide_what_is_resident() -> None:
    shard = shard_with((0, 1), (1, 5), dequantized_bytes=10**9)
    one_expert = CONFIG.expert_bytes()
    assert shard.resident() == {(0, 1), (1, 5)}
    assert shard.weight_bytes() == 2 * one_expert
    shard.forward(0, rows(1), torch.tensor([0]), torch.tensor([1]))
    shard.drop(0, 1)
    shard.drop(0, 1)
    assert not shard.has(0, 1)
    assert shard.weight_bytes() == one_expert
    shard.drop(1, 5)
    assert shard.weight_bytes() == 0
    assert shard.free_dequantized_bytes == 10**9


def test_the_answer_is_the_experts_own_formula_in_float64() -> None:
    """swiglu(x W1' + b1) W2' + b2, with gate and linear rows interleaved (gpt_oss/torch/model.py, MLPBlock)."""
    weights = SOURCE.expert(1, 4)
    x = rows(7).double()
    first = x @ dequantize(weights.mlp1, torch.float64).T + weights.mlp1_bias.double()  # pyright: ignore[reportArgumentType]
    gate, linear = first[:, 0::2].clamp(max=7.0), first[:, 1::2].clamp(-7.0, 7.0)
    inner = gate * torch.sigmoid(1.702 * gate) * (linear + 1)
    truth = inner @ dequantize(weights.mlp2, torch.float64).T + weights.mlp2_bias.double()  # pyright: ignore[reportArgumentType]
    shard = shard_with((1, 4), mode="float32")
    out = shard.forward(1, rows(7).float(), torch.arange(7), torch.full((7,), 4))
    torch.testing.assert_close(out.double(), truth, rtol=1e-5, atol=1e-5)


def test_pairs_name_their_row_and_their_expert() -> None:
    shard = shard_with(*((0, expert) for expert in range(6)))
    x = rows(3)
    out = shard.forward(0, x, torch.tensor([2, 0, 2]), torch.tensor([1, 1, 5]))
    for pair, (row, expert) in enumerate([(2, 1), (0, 1), (2, 5)]):
        alone = shard.forward(0, x[row : row + 1], torch.tensor([0]), torch.tensor([expert]))
        assert same_bits(out[pair : pair + 1], alone)
    assert out.dtype == torch.bfloat16


def test_no_pairs_give_no_rows() -> None:
    out = shard_with().forward(0, rows(2), torch.tensor([], dtype=torch.int64), torch.tensor([], dtype=torch.int64))
    assert out.shape == (0, CONFIG.hidden_size)


def test_an_expert_answers_the_same_from_any_shard() -> None:
    """N2: alone on one worker, among others on another, with and without kept dequantised weights."""
    pairs = torch.arange(33), torch.full((33,), 2)
    answers = [
        shard.forward(0, rows(33), *pairs)
        for shard in (
            shard_with((0, 2)),
            shard_with(*((0, expert) for expert in range(6)), dequantized_bytes=10**9),
            shard_with((0, 2), (1, 2), dequantized_bytes=30_000),
        )
    ]
    assert same_bits(answers[0], answers[1])
    assert same_bits(answers[0], answers[2])


def test_submit_is_row_independent_and_orders_outputs_as_the_gate_does() -> None:
    shard = shard_with(*((0, expert) for expert in range(6)))
    ids = (torch.arange(64)[:, None] * 5 + torch.arange(4) * 2) % 6

    def op(numbered: torch.Tensor) -> torch.Tensor:
        gate = GateOutput(ids[numbered[:, 0].long()], torch.ones(numbered.shape[0], 4))
        return shard.submit(0, numbered[:, 1:].bfloat16(), gate).wait()

    numbered = torch.cat((torch.arange(64.0)[:, None], rows(64).float()), dim=1)
    assert find_dependence(op, numbered) is None
    first = shard.forward(0, rows(64), torch.arange(64), ids[:, 3])
    assert same_bits(op(numbered)[:, 3], first)
