"""The MXFP4 matmul on rows of eight bits: the twin's bits, bounded rounding, row-independent."""

import pytest
import torch
from torch import Tensor

from model.kernels.mxfp4_linear import Mxfp4Weight
from model.kernels.mxfp4_linear_int8 import mxfp4_linear_int8, mxfp4_linear_int8_torch
from model.kernels.native_library import native_library
from model.mxfp4 import Mxfp4Tensor, dequantize, quantize
from tests.model.kernels.test_mxfp4_linear import SHAPES, random, random_weight
from tests.support.row_independence import find_dependence, same_bits

INPUT_STEP = 0.5 / 127
"""Largest error of an eight-bit input, relative to the largest input of its block."""
INT8_RELATIVE_ERROR = 1e-2
"""Root mean square error over that of the result, for rows of normal numbers: inputs are uniformly off by at most
half a step of 1/127 of a block's largest, which is about 2.1 deviations; 2.1 / 127 / sqrt(12) = 4.8e-3, doubled."""
NATIVE = pytest.mark.skipif(native_library() is None, reason="needs a C++ compiler: the packed layout is native")


def layouts(weight: Mxfp4Tensor) -> list[Mxfp4Weight | Mxfp4Tensor]:
    """Return the weight in every layout that this machine can read."""
    return [weight] if native_library() is None else [weight, Mxfp4Weight.of(weight)]


def awkward_rows(num_rows: int, inputs: int) -> Tensor:
    """Return rows with ties, a zero block, one huge, one tiny and one subnormal block among normal numbers."""
    blocks = random(num_rows, inputs).unflatten(1, (-1, 32))
    ties = torch.arange(32).sub(16).add(0.5)
    ties[0] = 127.0
    kinds = (ties, torch.zeros(32), torch.full((32,), 1e30), ties * 2.0**-122, ties * 2.0**-123, ties * 1e-40)
    for place, kind in enumerate(kinds[: blocks.shape[0] * blocks.shape[1]]):
        blocks[place % blocks.shape[0], place // blocks.shape[0] % blocks.shape[1]] = kind
    return blocks.flatten(1)


@NATIVE
@pytest.mark.parametrize("num_rows", [0, 1, 2, 3, 7, 8, 13, 33, 64])
@pytest.mark.parametrize(("inputs", "outputs"), SHAPES)
def test_kernel_and_twin_have_the_same_bits(num_rows: int, inputs: int, outputs: int) -> None:
    weight, bias = random_weight(inputs, outputs), random(outputs, seed=2)
    packed = Mxfp4Weight.of(weight)
    for rows in (random(num_rows, inputs), awkward_rows(num_rows, inputs) if num_rows else random(0, inputs)):
        ours = mxfp4_linear_int8(rows, packed, bias)
        assert same_bits(ours, mxfp4_linear_int8_torch(rows, packed, bias))
        assert same_bits(ours, mxfp4_linear_int8_torch(rows, weight, bias))


@pytest.mark.parametrize("num_rows", [0, 1, 7, 33])
@pytest.mark.parametrize(("inputs", "outputs"), SHAPES)
def test_the_error_is_the_rounding_of_the_inputs(num_rows: int, inputs: int, outputs: int) -> None:
    weight, bias = random_weight(inputs, outputs), random(outputs, seed=2)
    rows = random(num_rows, inputs)
    dense = dequantize(weight, torch.float64)
    truth = rows.double() @ dense.T + bias.double()
    largest = rows.abs().unflatten(1, (-1, 32)).amax(-1, keepdim=True).expand(-1, -1, 32).flatten(1)
    bound = INPUT_STEP * largest.double() @ dense.abs().T + 2**-18 * (rows.double().abs() @ dense.abs().T + 1)
    for layout in layouts(weight):
        assert bool(((mxfp4_linear_int8(rows, layout, bias).double() - truth).abs() <= bound).all())


def test_its_relative_error_stays_under_the_bound() -> None:
    weight, rows = random_weight(2880, 64), random(64, 2880)
    truth = rows.double() @ dequantize(weight, torch.float64).T
    for layout in layouts(weight):
        error = (mxfp4_linear_int8(rows, layout, torch.zeros(64)).double() - truth).norm() / truth.norm()
        assert 1e-3 < error < INT8_RELATIVE_ERROR


def test_integers_of_eight_bits_come_through_exactly() -> None:
    """Inputs that need no rounding: 127 in each block, so that the step is 1; one weight of 6 a feature."""
    rows = torch.zeros(2, 64)
    rows[:, [0, 32]] = 127.0
    rows[0, 1:32] = torch.arange(-120, 128, 8).float()[:31]
    weight = quantize(torch.eye(64)[:8] * 6.0)
    for layout in layouts(weight):
        assert mxfp4_linear_int8(rows, layout, torch.zeros(8)).tolist() == (rows[:, :8] * 6).tolist()


def test_the_largest_sums_do_not_wrap() -> None:
    """Every product is 6 * 127 or its negative, so a block's sum is 32 * 762 = 24384."""
    signs = torch.tensor([1.0, -1.0]).repeat(4)[:, None]
    weight = quantize(signs * torch.full((8, 64), 6.0))
    for layout in layouts(weight):
        out = mxfp4_linear_int8(torch.full((9, 64), -127.0), layout, torch.zeros(8))
        assert out.tolist() == [[-48768.0, 48768.0] * 4] * 9


@pytest.mark.parametrize("bad", [torch.inf, -torch.inf, torch.nan])
def test_what_is_not_finite_makes_its_own_row_nan(bad: float) -> None:
    rows = random(9, 64)
    rows[4, 40] = bad
    for layout in layouts(random_weight(64, 128)):
        out = mxfp4_linear_int8(rows, layout, torch.zeros(128))
        assert out.isnan().all(1).tolist() == [row == 4 for row in range(9)]


@pytest.mark.parametrize(("inputs", "outputs"), SHAPES)
def test_mxfp4_linear_int8_is_row_independent(inputs: int, outputs: int) -> None:
    weight, bias = random_weight(inputs, outputs), random(outputs, seed=2)
    for layout in layouts(weight):
        op = lambda rows, layout=layout: mxfp4_linear_int8(rows, layout, bias)  # noqa: E731
        assert find_dependence(op, random(64, inputs)) is None
