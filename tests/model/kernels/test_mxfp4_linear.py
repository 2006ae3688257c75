"""The MXFP4 matmul on packed weights: lossless layout, bounded rounding, row-independent."""

import pytest
import torch
from torch import Tensor

from model.kernels.mxfp4_linear import Mxfp4Weight, mxfp4_linear, mxfp4_linear_torch
from model.kernels.native_library import native_library
from model.mxfp4 import Mxfp4Tensor, dequantize, quantize
from tests.support.row_independence import find_dependence, same_bits

SHAPES = [(32, 8), (64, 128), (96, 192), (2880, 64)]
INPUT_STEP = 2.0**-14
"""Largest error of a 15-bit input, relative to the largest input of its block: half of 1 / 16319."""

pytestmark = pytest.mark.skipif(native_library() is None, reason="needs a C++ compiler: the packed layout is native")


def random_weight(inputs: int, outputs: int, seed: int = 0) -> Mxfp4Tensor:
    """Return random codes, all sixteen of them, and scales between 2**-9 and 2**4."""
    generator = torch.Generator().manual_seed(inputs * outputs + seed)
    blocks = torch.randint(0, 256, (outputs, inputs // 32, 16), generator=generator, dtype=torch.uint8)
    scales = torch.randint(118, 132, (outputs, inputs // 32), generator=generator, dtype=torch.uint8)
    return Mxfp4Tensor(blocks, scales)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("inputs", "outputs"), SHAPES)
def test_packing_loses_nothing(inputs: int, outputs: int) -> None:
    weight = random_weight(inputs, outputs)
    back = Mxfp4Weight.of(weight).unpacked()
    assert same_bits(back.blocks, weight.blocks)
    assert same_bits(back.scales, weight.scales)
    assert Mxfp4Weight.of(weight).nbytes == weight.num_bytes


def test_features_that_do_not_fill_the_lanes_are_refused() -> None:
    with pytest.raises(ValueError, match="12 features"):
        Mxfp4Weight.of(random_weight(32, 12))


@pytest.mark.parametrize("num_rows", [0, 1, 7, 33])
@pytest.mark.parametrize(("inputs", "outputs"), SHAPES)
def test_the_error_is_the_rounding_of_the_inputs(num_rows: int, inputs: int, outputs: int) -> None:
    weight, bias = random_weight(inputs, outputs), random(outputs, seed=2)
    rows = random(num_rows, inputs)
    dense = dequantize(weight, torch.float64)
    truth = rows.double() @ dense.T + bias.double()
    largest = rows.abs().unflatten(1, (-1, 32)).amax(-1, keepdim=True).expand(-1, -1, 32).flatten(1)
    bound = INPUT_STEP * largest.double() @ dense.abs().T + 2**-20 * (rows.double().abs() @ dense.abs().T + 1)
    out = mxfp4_linear(rows, Mxfp4Weight.of(weight), bias)
    assert bool(((out.double() - truth).abs() <= bound).all())
    twin = mxfp4_linear_torch(rows, Mxfp4Weight.of(weight), bias)
    assert bool(((out.double() - twin.double()).abs() <= bound).all())


def test_integers_of_fifteen_bits_come_through_exactly() -> None:
    """Inputs that need no rounding: 16319 in each block, so that the step is 1; one weight of 6 a feature."""
    rows = torch.zeros(2, 64)
    rows[:, [0, 32]] = 16319.0
    rows[0, 1:32] = torch.arange(-15000, 16000, 1000).float()
    weight = quantize(torch.eye(64)[:8] * 6.0)
    assert mxfp4_linear(rows, Mxfp4Weight.of(weight), torch.zeros(8)).tolist() == (rows[:, :8] * 6).tolist()


@pytest.mark.parametrize(("inputs", "outputs"), SHAPES)
def test_mxfp4_linear_is_row_independent(inputs: int, outputs: int) -> None:
    weight, bias = Mxfp4Weight.of(random_weight(inputs, outputs)), random(outputs, seed=2)
    assert find_dependence(lambda rows: mxfp4_linear(rows, weight, bias), random(64, inputs)) is None


def test_it_is_forty_times_more_exact_than_bfloat16() -> None:
    weight = random_weight(2880, 64)
    rows = random(16, 2880)
    truth = rows.double() @ dequantize(weight, torch.float64).T
    bf16 = rows.bfloat16() @ dequantize(weight, torch.bfloat16).T
    ours = mxfp4_linear(rows, Mxfp4Weight.of(weight), torch.zeros(64))
    assert (ours.double() - truth).norm() * 20 < (bf16.double() - truth).norm()
