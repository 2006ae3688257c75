"""The matmul on weights in 8-bit blocks: lossless layout, the twin's bits, bounded rounding, row-independent."""

import pytest
import torch
from torch import Tensor

from model.kernels.native_library import native_library
from model.kernels.q8_linear import Q8Weight, q8_linear, q8_linear_torch
from model.q8 import dequantize, quantize
from tests.support.row_independence import find_dependence, same_bits

SHAPES = [(32, 8), (64, 33), (96, 192), (2880, 40), (64, 40_000)]
"""(inputs K, outputs N); 33 and 40 fill no pair of groups, 40,000 cross the place where the twin splits them."""
INPUT_STEP = 0.5 / 32767
"""Largest error of a 16-bit input, relative to the largest input of its block."""
Q8_LINEAR_RELATIVE_ERROR = 4e-5
"""Root mean square error over that of the result on the same weights, for rows of normal numbers: inputs are uniformly
off by at most half a step of 1/32767 of a block's largest, about 2.1 deviations: 2.1 / 32767 / sqrt(12) = 1.9e-5,
doubled. bf16's own rounding of the inputs alone would be 1.7e-3."""
Q8_WEIGHT_RELATIVE_ERROR = 1e-2
"""The same against the weights before they were rounded: 2.1 / 127 / sqrt(12) = 4.8e-3, doubled."""
NATIVE = pytest.mark.skipif(native_library() is None, reason="needs a C++ compiler: the packed layout is native")


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def random_blocks(inputs: int, outputs: int) -> Tensor:
    """Return blocks of all codes, -128 too, under scales of all sizes that f16 has, a zero and subnormal ones too."""
    generator = torch.Generator().manual_seed(inputs * outputs)
    codes = torch.randint(0, 256, (outputs, inputs // 32, 32), generator=generator, dtype=torch.uint8)
    powers = torch.randint(-25, 6, (outputs, inputs // 32, 1), generator=generator)
    scales = (torch.rand(powers.shape, generator=generator) + 1) * 2.0**powers
    return torch.cat((scales.half().view(torch.uint8), codes), dim=-1)


def layouts(blocks: Tensor) -> list[Q8Weight]:
    """Return the weight in every layout that this machine can read."""
    plain = Q8Weight(blocks, blocks.shape[0], is_packed=False)
    return [plain] if native_library() is None else [plain, Q8Weight.of(blocks)]


def awkward_rows(num_rows: int, inputs: int) -> Tensor:
    """Return rows with ties, a zero block, one huge, one tiny and one subnormal block among normal numbers."""
    blocks = random(num_rows, inputs).unflatten(1, (-1, 32))
    ties = torch.arange(32).sub(16).add(0.5)
    ties[0] = 32767.0
    kinds = (ties, torch.zeros(32), torch.full((32,), 1e30), ties * 2.0**-115, ties * 2.0**-116, ties * 1e-42)
    for place, kind in enumerate(kinds[: blocks.shape[0] * blocks.shape[1]]):
        blocks[place % blocks.shape[0], place // blocks.shape[0] % blocks.shape[1]] = kind
    return blocks.flatten(1)


@pytest.mark.parametrize(("inputs", "outputs"), SHAPES)
def test_packing_loses_nothing(inputs: int, outputs: int) -> None:
    blocks = random_blocks(inputs, outputs)
    for weight in layouts(blocks):
        assert same_bits(weight.unpacked(), blocks)


@NATIVE
@pytest.mark.parametrize("num_rows", [0, 1, 2, 3, 4, 7, 13, 33])
@pytest.mark.parametrize(("inputs", "outputs"), SHAPES)
def test_kernel_and_twin_have_the_same_bits(num_rows: int, inputs: int, outputs: int) -> None:
    plain, packed = layouts(random_blocks(inputs, outputs))
    bias = random(outputs, seed=2)
    for rows in (random(num_rows, inputs), awkward_rows(num_rows, inputs) if num_rows else random(0, inputs)):
        ours = q8_linear(rows, packed, bias)
        assert same_bits(ours, q8_linear_torch(rows, packed, bias))
        assert same_bits(ours, q8_linear(rows, plain, bias))


@pytest.mark.parametrize("num_rows", [0, 1, 7, 33])
@pytest.mark.parametrize(("inputs", "outputs"), SHAPES)
def test_the_error_is_the_rounding_of_the_inputs(num_rows: int, inputs: int, outputs: int) -> None:
    blocks, rows, bias = random_blocks(inputs, outputs), random(num_rows, inputs), random(outputs, seed=2)
    dense = dequantize(blocks).double()
    truth = rows.double() @ dense.T + bias.double()
    largest = rows.abs().unflatten(1, (-1, 32)).amax(-1, keepdim=True).expand(-1, -1, 32).flatten(1)
    bound = INPUT_STEP * largest.double() @ dense.abs().T + 2**-17 * (rows.double().abs() @ dense.abs().T + 1)
    for weight in layouts(blocks):
        assert bool(((q8_linear(rows, weight, bias).double() - truth).abs() <= bound).all())


def test_its_relative_errors_stay_under_their_bounds() -> None:
    values, rows = random(64, 2880, seed=1), random(64, 2880)
    blocks = quantize(values)
    truth, before = rows.double() @ dequantize(blocks).double().T, rows.double() @ values.double().T
    for weight in layouts(blocks):
        out = q8_linear(rows, weight).double()
        assert (out - truth).norm() / truth.norm() < Q8_LINEAR_RELATIVE_ERROR
        assert 1e-3 < (out - before).norm() / before.norm() < Q8_WEIGHT_RELATIVE_ERROR


def test_the_largest_sums_do_not_wrap() -> None:
    """Every product is 32767 * -128 under a scale of 1: a block's sum is 32 of them, one more power of two in f32."""
    blocks = torch.full((8, 2, 34), 128, dtype=torch.uint8)
    blocks[..., :2] = torch.ones(8, 2, 1).half().view(torch.uint8)
    for weight in layouts(blocks):
        out = q8_linear(torch.full((5, 64), -32767.0), weight)
        assert out.tolist() == [[64.0 * 32767 * 128] * 8] * 5


@pytest.mark.parametrize("bad", [torch.inf, -torch.inf, torch.nan])
def test_what_is_not_finite_makes_its_own_row_nan(bad: float) -> None:
    rows = random(9, 64)
    rows[4, 40] = bad
    for weight in layouts(random_blocks(64, 16)):
        assert q8_linear(rows, weight).isnan().all(1).tolist() == [row == 4 for row in range(9)]


@pytest.mark.parametrize(("inputs", "outputs"), SHAPES[:4])
def test_q8_linear_is_row_independent(inputs: int, outputs: int) -> None:
    for weight in layouts(random_blocks(inputs, outputs)):
        assert find_dependence(lambda rows, weight=weight: q8_linear(rows, weight), random(64, inputs)) is None


def test_a_packed_weight_takes_as_many_bytes_as_a_stored_one() -> None:
    blocks = random_blocks(96, 64)
    assert all(weight.nbytes == 64 * 3 * 34 for weight in layouts(blocks))
