"""exact_exp, exact_sigmoid and tree_sum: close to the truth, and the same bits wherever a value stands."""

import math

import pytest
import torch

from model.kernels.exact_math import exact_exp, exact_exp_torch, exact_sigmoid, tree_sum
from tests.support.row_independence import find_dependence, same_bits

MAX_RELATIVE_ERROR = 2e-7
"""1.7 units in the last place of f32: one rounding in each step of the polynomial."""


def spread(size: int) -> torch.Tensor:
    """Return values over the whole range where e**x is a normal f32."""
    return torch.linspace(-86.9, 87.9, size)


def test_exp_is_within_two_units_in_the_last_place() -> None:
    x = spread(1_000_003)
    truth = x.double().exp()
    assert ((exact_exp(x).double() - truth).abs() / truth).max().item() < MAX_RELATIVE_ERROR


@pytest.mark.parametrize(("x", "expected"), [(0.0, 1.0), (-0.0, 1.0), (-87.5, 0.0), (-math.inf, 0.0), (-1e30, 0.0)])
def test_exp_is_exact_where_attention_relies_on_it(x: float, expected: float) -> None:
    assert exact_exp(torch.tensor([x])).item() == expected


def test_exp_keeps_not_a_number() -> None:
    assert math.isnan(exact_exp(torch.tensor([math.nan])).item())


def test_exp_of_a_value_has_the_same_bits_at_every_length_and_place() -> None:
    x = spread(70_001)
    whole = exact_exp(x)
    for size in (1, 2, 3, 7, 15, 33, 1001):
        for first in (0, 1, 5, 65_530, 70_001 - size):
            assert same_bits(exact_exp(x[first : first + size]), whole[first : first + size])


def test_exp_is_row_independent() -> None:
    x = torch.randn(64, 33, generator=torch.Generator().manual_seed(0)) * 30
    assert find_dependence(exact_exp, x) is None
    assert find_dependence(exact_exp_torch, x) is None


def test_native_and_twin_have_the_same_bits() -> None:
    """Over the whole range, beyond it, at every remainder of the lanes, and for what is no number."""
    x = torch.cat((spread(1_000_003), torch.tensor([math.inf, -math.inf, math.nan, -0.0, 0.0, 88.5, -87.0, -87.00001])))
    assert same_bits(exact_exp(x), exact_exp_torch(x))


def test_exp_accepts_any_layout() -> None:
    x = spread(24).view(4, 6)
    assert same_bits(exact_exp(x.T), exact_exp(x).T)


def test_sigmoid_is_close_and_row_independent() -> None:
    x = torch.randn(64, 77, generator=torch.Generator().manual_seed(0)) * 8
    assert (exact_sigmoid(x).double() - x.double().sigmoid()).abs().max().item() < 2e-7
    assert find_dependence(exact_sigmoid, x) is None


@pytest.mark.parametrize("size", [1, 2, 3, 45, 128, 2880])
def test_tree_sum_is_close_and_row_independent(size: int) -> None:
    x = torch.randn(64, size, generator=torch.Generator().manual_seed(size))
    assert (tree_sum(x).double() - x.double().sum(-1)).abs().max().item() < 1e-6 * size
    assert find_dependence(tree_sum, x) is None


def test_tree_sum_follows_its_tree() -> None:
    """Five numbers fold to (a+c, b+d, e), then ((a+c)+(b+d), e): 2.5; one after the other they
    give 1.5, because 2**24 + 1 rounds to 2**24.
    """
    big = 2.0**24
    x = torch.tensor([big, 1.0, -big, 1.0, 0.5])
    assert tree_sum(x).item() == 2.5


def test_tree_sum_takes_any_dimension_and_none() -> None:
    x = torch.arange(12.0).view(3, 4)
    assert torch.equal(tree_sum(x, dim=0), torch.tensor([12.0, 15.0, 18.0, 21.0]))
    assert torch.equal(tree_sum(torch.zeros(2, 0)), torch.zeros(2))


def test_the_check_catches_a_sum_in_order_of_arrival() -> None:
    """Negative control: a sum whose order depends on the row's place in the batch."""

    def arrival_order_sum(x: torch.Tensor) -> torch.Tensor:
        return torch.stack([tree_sum(row.roll(place)) for place, row in enumerate(x)])

    x = torch.randn(64, 201, generator=torch.Generator().manual_seed(3))
    assert find_dependence(arrival_order_sum, x) is not None
