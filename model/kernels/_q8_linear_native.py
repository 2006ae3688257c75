"""The native body of `q8_linear`, and the layout it reads.

For 8 output features and 32 inputs, byte 16 p + 2 r + i of the codes is input 2 p + i of feature r; the features' f16
scales follow. So a 16-byte load meets one pair of inputs, and the packed weight is as large as the stored one.
"""

import torch
from torch import Tensor

from model.kernels.native_library import required_library
from model.kernels.threads import num_threads
from model.q8 import BLOCK_BYTES, BLOCK_VALUES, SCALE_BYTES

FEATURES = 8
"""Output features that lie side by side in a packed weight."""
_CODE_BYTES = FEATURES * BLOCK_VALUES


def pack_q8(blocks: Tensor) -> Tensor:
    """Return blocks [N, K/32, 34] u8 as [ceil(N / 8), K/32, 272] u8, missing features zero."""
    features, num_blocks, _ = blocks.shape
    packed = blocks.new_zeros((-(-features // FEATURES), num_blocks, FEATURES * BLOCK_BYTES))
    required_library().call("em_q8_pack", blocks.contiguous(), features, num_blocks * BLOCK_VALUES, packed)
    return packed


def unpack_q8(packed: Tensor, features: int) -> Tensor:
    """Return blocks [N, K/32, 34] u8, N = `features`: the inverse of `pack_q8`."""
    # [group, block, pair, feature, i]: input 2 pair + i.
    codes = packed[..., :_CODE_BYTES].unflatten(-1, (-1, FEATURES, 2)).permute(0, 3, 1, 2, 4).flatten(3)
    scales = packed[..., _CODE_BYTES:].unflatten(-1, (FEATURES, SCALE_BYTES)).transpose(1, 2)
    return torch.cat((scales, codes), dim=-1).flatten(0, 1)[:features]


def q8_linear_native(rows: Tensor, packed: Tensor) -> Tensor:
    """Return rows [T, K] times the packed weight [N / 8, K / 32, 272] transposed as [T, N] f32."""
    rows = rows.float().contiguous()
    groups, num_blocks, _ = packed.shape
    width = num_blocks * BLOCK_VALUES
    assert rows.shape[1] == width, f"rows {tuple(rows.shape)} do not fit a weight of width {width}"
    out = torch.empty((rows.shape[0], groups * FEATURES), dtype=torch.float32)
    sizes = rows.shape[0], width
    required_library().call("em_q8", rows, *sizes, packed, groups * FEATURES, out, threads=num_threads())
    return out
