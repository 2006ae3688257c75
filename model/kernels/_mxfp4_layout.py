"""The layout of MXFP4 weights that the native kernels read.

For 8 output features and 32 inputs, byte 32 m + 4 r + i of the codes holds feature r: input 8 m + i in its low nibble,
input 8 m + 4 + i in its high one. The 8 scales follow. So a 32-byte load meets 4 inputs of each of 8 features.
"""

import torch
from torch import Tensor

from model.kernels.native_library import required_library
from model.kernels.threads import num_threads

FEATURES = 8
"""Output features that lie side by side in a packed weight."""
_CODE_BYTES = 128


def packed_shape(features: int, width: int) -> tuple[int, int, int]:
    """Return the shape of a weight [features, width] as packed; raises ValueError if it cannot be."""
    if features % FEATURES:
        raise ValueError(f"an MXFP4 weight of {features} features cannot be packed; wanted a multiple of {FEATURES}")
    return features // FEATURES, width // 32, _CODE_BYTES + FEATURES


def pack_blocks(blocks: Tensor, scales: Tensor, out: Tensor | None = None) -> Tensor:
    """Return blocks [N, K/32, 16] and scales [N, K/32] u8 as [N/8, K/32, 136] u8, in `out` if it is given."""
    features, num_blocks = scales.shape
    sizes = features, num_blocks * 32
    packed = blocks.new_empty(packed_shape(*sizes)) if out is None else out
    blocks, scales = blocks.contiguous(), scales.contiguous()
    required_library().call("em_mxfp4_pack", blocks, scales, *sizes, packed, threads=num_threads())
    return packed


def unpack_blocks(packed: Tensor) -> tuple[Tensor, Tensor]:
    """Return blocks [N, K/32, 16] and scales [N, K/32] u8: the inverse of `pack_blocks`."""
    codes, scales = packed[..., :_CODE_BYTES], packed[..., _CODE_BYTES:]
    # [group, block, m, feature, i]: inputs 8 m + i below, 8 m + 4 + i above.
    by_place = codes.unflatten(-1, (4, FEATURES, 4))
    inputs = torch.stack((by_place & 15, by_place >> 4), dim=-2).permute(0, 3, 1, 2, 4, 5).flatten(3)
    blocks = (inputs[..., 0::2] | (inputs[..., 1::2] << 4)).flatten(0, 1)
    return blocks.contiguous(), scales.transpose(1, 2).flatten(0, 1).contiguous()
