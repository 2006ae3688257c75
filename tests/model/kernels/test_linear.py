"""The matmul twin: right, and row-independent where the vendor's is not."""

import pytest
import torch

from model.kernels.linear import linear, linear_torch
from tests.support.row_independence import find_dependence, same_bits

SHAPES = [(64, 8), (64, 128), (96, 33), (192, 160), (64, 40_000), (2880, 640)]
"""(inputs K, outputs N); 40,000 outputs cross the place where features are split."""


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("inputs", "outputs"), SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_linear_is_row_independent(inputs: int, outputs: int, dtype: torch.dtype) -> None:
    weight = random(outputs, inputs, seed=1).to(dtype)
    assert find_dependence(lambda rows: linear(rows, weight), random(64, inputs)) is None


@pytest.mark.parametrize("num_rows", [0, 1, 7, 33])
@pytest.mark.parametrize(("inputs", "outputs"), SHAPES[:4])
def test_linear_is_close_to_float64(num_rows: int, inputs: int, outputs: int) -> None:
    rows, weight, bias = random(num_rows, inputs), random(outputs, inputs, seed=1), random(outputs, seed=2)
    truth = rows.double() @ weight.double().T + bias.double()
    out = linear(rows, weight, bias)
    assert out.shape == (num_rows, outputs)
    # Any order of K products and sums in f32 errs by at most (K + 1) * 2**-24 of the sum of magnitudes.
    bound = (inputs + 1) * 2**-24 * (rows.double().abs() @ weight.double().abs().T + bias.double().abs())
    assert bool(((out.double() - truth).abs() <= bound).all())


def test_weights_in_bfloat16_and_float32_give_the_same_bits() -> None:
    weight = random(40_000, 64, seed=1).bfloat16()
    assert same_bits(linear(random(5, 64), weight), linear(random(5, 64), weight.float()))


def test_the_check_catches_a_matmul_whose_reduction_depends_on_the_batch() -> None:
    """Negative control: a twin that splits K by the number of rows, as split-K kernels do."""

    def split_by_batch(rows: torch.Tensor) -> torch.Tensor:
        parts = [rows[:, part].double() @ weight[:, part].double().T for part in halves(rows)]
        return sum(part.float() for part in parts)  # pyright: ignore[reportReturnType]

    def halves(rows: torch.Tensor) -> list[slice]:
        cut = 16 if rows.shape[0] < 4 else 48
        return [slice(0, cut), slice(cut, 64)]

    weight = random(128, 64, seed=1)
    assert find_dependence(split_by_batch, random(64, 64)) is not None


def test_the_twin_is_the_backend() -> None:
    assert linear is linear_torch
