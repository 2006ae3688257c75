"""The bytes of GGUF tensors: values to blocks and back, exact for MXFP4 and bf16."""

import numpy as np
import torch
from torch import Tensor

from model import q8
from model.checkpoint.gguf.block_types import BF16, F16, F32, MXFP4, OLLAMA_MXFP4, Q8_0, BlockType
from model.mxfp4 import BLOCK_BYTES, Mxfp4Tensor

_ROWS_AT_ONCE = 4096
"""Rows whose values are in float32 at one time; so a vocabulary of 1 GB takes no 2 GB on the way."""
_HALF = BLOCK_BYTES // 2


def decode(data: Tensor, block_type: BlockType, shape: tuple[int, ...]) -> Tensor:
    """Return the values of `data` (u8, flat) as bf16, rounded to nearest where `block_type` is finer; BF16 is a view.

    Values that were bf16 before they were written as F32 or, down to 2^-14, as F16 come back as they were.
    """
    if block_type == BF16:
        return data.view(torch.bfloat16).view(shape)
    if block_type in {F16, F32}:
        wide = data.view(torch.float16 if block_type == F16 else torch.float32)
        return wide.to(torch.bfloat16).view(shape)
    assert block_type == Q8_0, f"{block_type.name} is not decoded to values"
    values = torch.empty(shape, dtype=torch.bfloat16)
    rows, blocks = values.view(-1, shape[-1]), q8_blocks(data, shape).flatten(0, -3)
    for row, block in zip(rows.split(_ROWS_AT_ONCE), blocks.split(_ROWS_AT_ONCE), strict=True):
        row.copy_(q8.dequantize(block))
    return values


def encode(values: Tensor, block_type: BlockType) -> Tensor:
    """Return `values` as the bytes (u8) of F32, BF16 or Q8_0, along the same leading dimensions."""
    if block_type == F32:
        return values.float().contiguous().view(torch.uint8)
    if block_type == BF16:
        assert values.dtype == torch.bfloat16, f"{values.dtype} would have to be rounded"
        return values.contiguous().view(torch.uint8)
    assert block_type == Q8_0, f"{block_type.name} is not written"
    return q8.quantize(values).flatten(-2)


def q8_blocks(data: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return `data` (u8, flat), a tensor of `shape` held as Q8_0, as blocks [..., n, 34] u8: a view."""
    return data.view(*shape[:-1], shape[-1] // Q8_0.block_values, Q8_0.block_bytes)


def unpack_mxfp4(data: Tensor, block_type: BlockType, rows: int) -> Mxfp4Tensor:
    """Return a matrix of `rows` held in `data` (u8, flat); exact, scale bytes and codes are moved and not changed."""
    blocks = data.view(rows, -1, MXFP4.block_bytes)
    stored = blocks[..., 1:]
    if block_type == OLLAMA_MXFP4:
        return Mxfp4Tensor(stored.contiguous(), blocks[..., 0].contiguous())
    pairs = np.ascontiguousarray(stored.numpy()).view("<u2")  # two bytes at once, the even one low: twice as fast
    codes = np.empty((rows, blocks.shape[1], BLOCK_BYTES), dtype=np.uint8)
    codes[..., :_HALF] = (pairs & 0x0F) | ((pairs >> 4) & 0xF0)
    codes[..., _HALF:] = ((pairs >> 4) & 0x0F) | ((pairs >> 8) & 0xF0)
    return Mxfp4Tensor(torch.from_numpy(codes), blocks[..., 0].contiguous())


def pack_mxfp4(tensor: Mxfp4Tensor) -> Tensor:
    """Return the bytes (u8) [rows, 17n] of a matrix as MXFP4: the inverse of `unpack_mxfp4`."""
    first, second = tensor.blocks[..., :_HALF], tensor.blocks[..., _HALF:]
    packed = torch.empty((*tensor.scales.shape, MXFP4.block_bytes), dtype=torch.uint8)
    packed[..., 0] = tensor.scales
    packed[..., 1::2] = (first & 0x0F) | (second << 4)
    packed[..., 2::2] = (first >> 4) | (second & 0xF0)
    return packed.flatten(-2)


def interleaved(gate: Tensor, up: Tensor) -> Tensor:
    """Return rows gate[0], up[0], gate[1], up[1] and so on: the order of mlp1."""
    return torch.stack((gate, up), dim=1).flatten(0, 1)
