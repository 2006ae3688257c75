"""Norm, SwiGLU, rotary and the KV store against float64 or by hand, and row by row."""

import math

import pytest
import torch

from model.kernels.kv_store import kv_store
from model.kernels.norm import rms_norm
from model.kernels.rotary import RotaryTable, concentration, inverse_frequencies, rotate
from model.kernels.swiglu import swiglu
from tests.support.random_model import random_config
from tests.support.row_independence import find_dependence


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("num_rows", [0, 1, 7, 33])
@pytest.mark.parametrize("hidden", [64, 2880])
def test_norm_is_close_to_float64(num_rows: int, hidden: int) -> None:
    x, weight = random(num_rows, hidden), random(hidden, seed=1)
    truth = x.double() / (x.double().pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * weight.double()
    torch.testing.assert_close(rms_norm(x, weight, 1e-5).double(), truth, rtol=1e-6, atol=0)


@pytest.mark.parametrize("hidden", [64, 2880])
def test_norm_is_row_independent(hidden: int) -> None:
    weight = random(hidden, seed=1)
    assert find_dependence(lambda x: rms_norm(x, weight, 1e-5), random(64, hidden)) is None


def test_swiglu_clamps_the_gate_above_and_the_linear_half_on_both_sides() -> None:
    """Gate 9 counts as 7 and linear -9 as -7: 7 * sigmoid(11.914) * -6; gate -9 stays: -9 * sigmoid(-15.318) * 8."""
    out = swiglu(torch.tensor([[9.0, -9.0, -9.0, 9.0]]), limit=7.0, alpha=1.702)
    first = 7 / (1 + math.exp(-7 * 1.702)) * (-7 + 1)
    second = -9 / (1 + math.exp(9 * 1.702)) * (7 + 1)
    torch.testing.assert_close(out, torch.tensor([[first, second]]), rtol=1e-6, atol=0)


def test_swiglu_is_row_independent() -> None:
    assert find_dependence(lambda x: swiglu(x, 7.0, 1.702), random(64, 2 * 90) * 4) is None


def test_rotary_frequencies_follow_yarn_without_rounding_its_bounds() -> None:
    """Bounds 8.0928 and 17.3980 for D = 64 (computed by hand from the formula): dims 0..8 keep their frequency,
    dims 18.. are slowed by 32, and dim 9 lies at ramp (9 - 8.092779) / 9.305246.
    """
    config = random_config(head_dim=64)
    frequencies = inverse_frequencies(config)
    plain = torch.tensor([150000.0 ** -(2 * i / 64) for i in range(32)])
    torch.testing.assert_close(frequencies[:9], plain[:9], rtol=1e-6, atol=0)
    torch.testing.assert_close(frequencies[18:], plain[18:] / 32, rtol=1e-6, atol=0)
    ramp = (9 - 8.092779) / 9.305246
    torch.testing.assert_close(frequencies[9], plain[9] * (1 - ramp) + plain[9] / 32 * ramp, rtol=1e-5, atol=0)
    assert concentration(config) == pytest.approx(1.3465735902799727, abs=1e-15)


def test_rotation_turns_pairs_of_halves_by_the_position() -> None:
    config = random_config(head_dim=16)
    table = RotaryTable(config, 5000, "cpu")
    positions = torch.tensor([0, 1, 4999])
    heads = random(3, 2, 16)
    angles = positions[:, None] * inverse_frequencies(config).double()
    turned = torch.polar(torch.full_like(angles, concentration(config)), angles)
    truth = torch.complex(heads[..., :8].double(), heads[..., 8:].double()) * turned[:, None]
    expected = torch.cat((truth.real, truth.imag), dim=-1)
    torch.testing.assert_close(rotate(heads, *table.rows(positions)).double(), expected, rtol=0, atol=2e-3)
    torch.testing.assert_close(rotate(heads, *table.rows(positions))[:2].double(), expected[:2], rtol=0, atol=1e-6)


def test_rotation_is_row_independent() -> None:
    table = RotaryTable(random_config(head_dim=32), 64, "cpu")
    rows = torch.cat((torch.arange(64.0)[:, None], random(64, 96)), dim=1)

    def op(rows: torch.Tensor) -> torch.Tensor:
        return rotate(rows[:, 1:].view(-1, 3, 32), *table.rows(rows[:, 0].long()))

    assert find_dependence(op, rows) is None


def test_rows_are_stored_rounded_at_their_slots_and_nowhere_else() -> None:
    paged = torch.zeros(3, 4, 1, 2, dtype=torch.bfloat16)
    kv_store(torch.tensor([[[1.0, 2.0]], [[1.00390625, 3.0]]]), paged, torch.tensor([5, 11]))
    expected = torch.zeros(12, 2)
    expected[5], expected[11] = torch.tensor([1.0, 2.0]), torch.tensor([1.0, 3.0])
    assert torch.equal(paged.float().view(12, 2), expected)


def test_storing_is_row_independent() -> None:
    """A row is stored with the same bits alone and among others, also where it needs rounding."""

    def op(numbered: torch.Tensor) -> torch.Tensor:
        paged = torch.zeros(4, 16, 2, 8, dtype=torch.bfloat16)
        slots = numbered[:, 0].long()
        kv_store(numbered[:, 1:].view(-1, 2, 8), paged, slots)
        return paged.flatten(0, 1)[slots]

    numbered = torch.cat((torch.arange(64.0).flip(0)[:, None], random(64, 16)), dim=1)
    assert find_dependence(op, numbered) is None
