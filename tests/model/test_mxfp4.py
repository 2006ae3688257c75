"""MXFP4 against values worked out by hand, against a slow reference, and against transformers."""

import math

import pytest
import torch
from torch import Tensor
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from model.mxfp4 import Mxfp4Tensor, dequantize, quantize

ONE = 127
"""The scale byte of 1."""
VALUES = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0]


def block(codes: list[int], scale: int) -> Mxfp4Tensor:
    """Return one block with the 32 `codes`, packed by hand."""
    packed = [codes[2 * byte] + 16 * codes[2 * byte + 1] for byte in range(16)]
    return Mxfp4Tensor(torch.tensor([packed], dtype=torch.uint8), torch.tensor([scale], dtype=torch.uint8))


def codes_of(tensor: Mxfp4Tensor) -> list[int]:
    return [nibble for byte in tensor.blocks.flatten().tolist() for nibble in (byte % 16, byte // 16)]


def slow_value(code: int, scale: int) -> float:
    """Decode one code by its bits: sign, two exponent bits with bias 1, one mantissa bit."""
    sign, exponent, mantissa = code >> 3, (code >> 1) & 3, code & 1
    magnitude = mantissa * 0.5 if exponent == 0 else (1 + mantissa * 0.5) * 2.0 ** (exponent - 1)
    return math.ldexp(-magnitude if sign else magnitude, scale - 127)


def random_tensor(*shape: int, seed: int = 0) -> Mxfp4Tensor:
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.randint(0, 256, (*shape, 16), generator=generator, dtype=torch.uint8)
    return Mxfp4Tensor(blocks, torch.randint(0, 250, shape, generator=generator, dtype=torch.uint8))


def padded(values: list[float]) -> Tensor:
    return torch.tensor(values + [0.0] * (32 - len(values)))


def test_each_code_has_its_value_low_nibble_first() -> None:
    codes = list(range(16)) * 2
    values = dequantize(block(codes, ONE), torch.float32)
    assert values.tolist() == VALUES * 2
    assert [math.copysign(1, value) for value in values[:16].tolist()] == [1.0] * 8 + [-1.0] * 8


@pytest.mark.parametrize(("scale", "value"), [(0, 2.0**-127), (1, 2.0**-126), (126, 0.5), (127, 1.0), (252, 2.0**125)])
def test_scale_is_a_power_of_two_with_bias_127(scale: int, value: float) -> None:
    ones = dequantize(block([2] * 32, scale), torch.float32)
    assert ones.tolist() == [value] * 32


def test_scale_255_is_not_a_number() -> None:
    assert dequantize(block([2] * 32, 255), torch.float32).isnan().all()


def test_every_code_under_every_scale_agrees_with_the_slow_reference() -> None:
    for scale in range(253):  # beyond, 4 and 6 are no float32 any more
        codes = list(range(16)) * 2
        expected = [slow_value(code, scale) for code in codes]
        for dtype in (torch.float64, torch.float32, torch.bfloat16):
            assert dequantize(block(codes, scale), dtype).double().tolist() == expected


def test_stacks_agree_with_transformers() -> None:
    tensor = random_tensor(3, 5, 4)
    expected = convert_moe_packed_tensors(tensor.blocks, tensor.scales, dtype=torch.bfloat16)
    assert torch.equal(dequantize(tensor, torch.bfloat16), expected.transpose(1, 2))


def test_shape_and_bytes_are_those_of_the_values() -> None:
    tensor = random_tensor(3, 5, 4)
    assert tensor.shape == (3, 5, 128) == tuple(dequantize(tensor, torch.float32).shape)
    assert tensor.num_bytes == 3 * 5 * 4 * 17


def test_values_on_the_grid_keep_their_codes() -> None:
    tensor = quantize(torch.tensor([*VALUES, *VALUES]))
    assert codes_of(tensor) == list(range(16)) * 2
    assert tensor.scales.tolist() == [ONE]


def test_values_between_round_to_nearest_and_ties_to_the_even_code() -> None:
    """With a 6 in the block the scale is 1. The ties are the seven midpoints; even codes are 0, 1, 2 and 4."""
    ties = {0.25: 0, 0.75: 2, 1.25: 2, 1.75: 4, 2.5: 4, 3.5: 6, 5.0: 6}
    near = {0.24: 0, 0.26: 1, 0.76: 2, 1.24: 2, 1.26: 3, 2.49: 4, 2.51: 5, 3.49: 5, 4.99: 6, 5.01: 7}
    values, codes = zip(*(ties | near).items(), strict=True)
    assert codes_of(quantize(padded([6.0, *values])))[: 1 + len(codes)] == [7, *codes]
    assert codes_of(quantize(padded([-6.0, *(-value for value in values)])))[: 1 + len(codes)] == [
        15,
        *(code + 8 for code in codes),
    ]


@pytest.mark.parametrize(
    ("largest", "power", "rounded"),
    [(6.0, 0, 6.0), (6.99, 0, 6.0), (7.0, 1, 8.0), (7.5, 1, 8.0), (9.0, 1, 8.0), (3.0, -1, 3.0), (3.5, 0, 4.0)],
)
def test_scale_is_the_smallest_that_holds_the_rounded_maximum(largest: float, power: int, rounded: float) -> None:
    """7 lies between 6 and 8 and rounds to 8, the even one, which the scale 1 cannot hold."""
    tensor = quantize(padded([0.1, -largest]))
    assert tensor.scales.tolist() == [ONE + power]
    assert dequantize(tensor, torch.float32)[1].item() == -rounded


def test_no_neighbouring_code_is_nearer() -> None:
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(64, 96, generator=generator) * 10.0 ** torch.randint(-6, 6, (64, 1), generator=generator)
    tensor = quantize(weight)
    grid = torch.tensor(VALUES, dtype=torch.float64)
    scales = torch.exp2(tensor.scales.double() - 127).repeat_interleave(32, dim=-1)
    distances = (weight.double().unsqueeze(-1) - grid * scales.unsqueeze(-1)).abs()
    chosen = (weight.double() - dequantize(tensor, torch.float64)).abs()
    assert torch.equal(chosen, distances.amin(dim=-1))


def test_requantising_changes_no_value() -> None:
    values = dequantize(random_tensor(16, 8, seed=7), torch.float32)
    assert torch.equal(dequantize(quantize(values), torch.float32), values)


def test_dtype_of_the_weight_changes_nothing() -> None:
    weight = torch.randn(4, 64, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    tensors = [quantize(weight.to(dtype)) for dtype in (torch.bfloat16, torch.float32, torch.float64)]
    for tensor in tensors[1:]:
        assert torch.equal(tensor.blocks, tensors[0].blocks)
        assert torch.equal(tensor.scales, tensors[0].scales)


def test_extreme_blocks_are_held() -> None:
    largest = torch.finfo(torch.float32).max
    weight = torch.stack([torch.zeros(32), torch.full((32,), 1e-45), torch.full((32,), -(2.0**127))])
    tensor = quantize(weight)
    assert tensor.scales[:2].flatten().tolist() == [0, 0]
    assert dequantize(tensor, torch.float32)[[0, 1, 2], 0].tolist() == [0.0, 0.0, -(2.0**127)]
    assert dequantize(quantize(torch.full((32,), largest)), torch.float64)[0].item() == 2.0**128


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        quantize(padded([1.0, value]))


def test_ragged_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="33, not a multiple of 32"):
        quantize(torch.zeros(2, 33))
