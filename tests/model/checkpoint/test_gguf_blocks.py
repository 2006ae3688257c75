"""The bytes of GGUF tensors: worked by hand, and held against the `gguf` package's own quantisers."""

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType

from model.checkpoint.gguf.block_types import BF16, F16, F32, MXFP4, OLLAMA_MXFP4, Q8_0, BlockType
from model.checkpoint.gguf.blocks import decode, encode, interleaved, pack_mxfp4, unpack_mxfp4
from model.mxfp4 import Mxfp4Tensor, dequantize

SHAPES = [(1, 32), (3, 96), (7, 64)]


def random_mxfp4(rows: int, columns: int) -> Mxfp4Tensor:
    generator = torch.Generator().manual_seed(rows)
    blocks = torch.randint(256, (rows, columns // 32, 16), generator=generator, dtype=torch.uint8)
    return Mxfp4Tensor(blocks, torch.randint(100, 140, (rows, columns // 32), generator=generator, dtype=torch.uint8))


def random_bf16(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3)).to(torch.bfloat16)


def test_a_block_of_mxfp4_by_hand() -> None:
    """Codes 0..15 twice: safetensors pairs neighbours, 10 32 54 ..; GGUF pairs j with j + 16, 00 11 22 .. ff."""
    neighbours = [2 * pair | (2 * pair + 1) << 4 for pair in range(8)] * 2
    tensor = Mxfp4Tensor(torch.tensor([[neighbours]], dtype=torch.uint8), torch.tensor([[121]], dtype=torch.uint8))
    assert pack_mxfp4(tensor).tolist() == [[121, *(0x11 * code for code in range(16))]]


@pytest.mark.parametrize(("rows", "columns"), SHAPES)
def test_mxfp4_comes_back_as_it_was(rows: int, columns: int) -> None:
    tensor = random_mxfp4(rows, columns)
    back = unpack_mxfp4(pack_mxfp4(tensor).flatten(), MXFP4, rows)
    assert torch.equal(back.blocks, tensor.blocks)
    assert torch.equal(back.scales, tensor.scales)


@pytest.mark.parametrize(("rows", "columns"), SHAPES)
def test_mxfp4_means_to_the_gguf_package_what_it_means_to_us(rows: int, columns: int) -> None:
    tensor = random_mxfp4(rows, columns)
    theirs = gguf.dequantize(pack_mxfp4(tensor).numpy(), GGMLQuantizationType.MXFP4)
    assert np.array_equal(theirs, dequantize(tensor, torch.float32).numpy())


def test_the_first_mxfp4_of_ollama_is_that_of_safetensors_behind_its_scale() -> None:
    tensor = random_mxfp4(3, 64)
    data = torch.cat((tensor.scales.unsqueeze(-1), tensor.blocks), dim=-1).flatten()
    back = unpack_mxfp4(data, OLLAMA_MXFP4, 3)
    assert torch.equal(back.blocks, tensor.blocks)
    assert torch.equal(back.scales, tensor.scales)


@pytest.mark.parametrize("block_type", [F32, BF16], ids=lambda block_type: block_type.name)
def test_bf16_survives(block_type: BlockType) -> None:
    values = random_bf16(5, 64)
    assert torch.equal(decode(encode(values, block_type).flatten(), block_type, (5, 64)), values)


def test_bf16_written_as_f16_comes_back_down_to_the_smallest_normal() -> None:
    values = torch.tensor([[2.0**-14, -1.0, 3.140625, 65280.0, 0.0]], dtype=torch.bfloat16)
    data = values.half().view(torch.uint8).flatten()
    assert torch.equal(decode(data, F16, (1, 5)), values)


def test_finer_values_are_rounded_to_nearest_even() -> None:
    """Bf16 has 8 bits: 1 + 2^-8 is halfway and goes to 1, 1 + 3 * 2^-8 to 1 + 2^-6."""
    data = torch.tensor([1 + 2.0**-8, 1 + 3 * 2.0**-8, 1 + 2.0**-8 + 2.0**-20]).view(torch.uint8)
    assert decode(data, F32, (3,)).tolist() == [1.0, 1.015625, 1.0078125]


@pytest.mark.parametrize(("rows", "columns"), [*SHAPES, (4097, 32)])
def test_q8_0_is_that_of_the_gguf_package(rows: int, columns: int) -> None:
    values = random_bf16(rows, columns)
    values[0, :32] = 0
    theirs = gguf.quantize(values.float().numpy(), GGMLQuantizationType.Q8_0)
    data = encode(values, Q8_0)
    assert np.array_equal(data.numpy(), theirs)
    exact = torch.from_numpy(gguf.dequantize(theirs, GGMLQuantizationType.Q8_0))
    assert torch.equal(decode(data.flatten(), Q8_0, (rows, columns)), exact.to(torch.bfloat16))


def test_gate_and_linear_half_alternate() -> None:
    gate, up = torch.tensor([[1], [3]]), torch.tensor([[2], [4]])
    assert interleaved(gate, up).tolist() == [[1], [2], [3], [4]]
