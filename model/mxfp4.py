"""MXFP4, the expert weights' format: this file is its reference, not its fast path.

A block is 32 values along the last dimension: 16 bytes of codes and one byte of scale, 4.25 bits a value. Byte j holds
element 2j in its low nibble and element 2j+1 in its high one. A code is sign, two exponent bits and one mantissa bit
(E2M1), the scale a power of two with bias 127 (E8M0, 255 is NaN): OCP Microscaling Formats 1.0.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK_VALUES = 32
"""Values that share one scale."""
BLOCK_BYTES = 16
"""Bytes of codes in a block."""
SCALE_BIAS = 127
MAX_SCALE = 254
"""The largest scale byte that is a number."""

MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""The values of codes 0 to 7; codes 8 to 15 are their negatives."""
CODE_VALUES = (*MAGNITUDES, *(-magnitude for magnitude in MAGNITUDES))

_CODE_VALUES = torch.tensor(CODE_VALUES, dtype=torch.float64)
_BYTE_VALUES = torch.stack((_CODE_VALUES.repeat(16), _CODE_VALUES.repeat_interleave(16)), dim=-1)
"""[256, 2]: the two values of each byte, low nibble first."""
_SCALES = torch.tensor([math.ldexp(1.0, s - SCALE_BIAS) for s in range(255)] + [math.nan], dtype=torch.float64)
"""[256]: the value of each scale byte."""


@dataclass(frozen=True, slots=True)
class Mxfp4Tensor:
    """A tensor [..., 32n] held as MXFP4."""

    blocks: Tensor
    """[..., n, 16] u8: codes, two a byte."""
    scales: Tensor
    """[..., n] u8: exponents, biased by 127."""

    def __post_init__(self) -> None:
        assert self.blocks.dtype == torch.uint8, f"blocks are {self.blocks.dtype}, not uint8"
        assert self.scales.dtype == torch.uint8, f"scales are {self.scales.dtype}, not uint8"
        expected = (*self.scales.shape, BLOCK_BYTES)
        assert tuple(self.blocks.shape) == expected, f"blocks are {tuple(self.blocks.shape)}, scales ask for {expected}"

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of the values, [..., 32n]."""
        return (*self.scales.shape[:-1], self.scales.shape[-1] * BLOCK_VALUES)

    @property
    def num_bytes(self) -> int:
        """Return the bytes of codes and scales together."""
        return self.blocks.numel() + self.scales.numel()

    def to(self, device: torch.device | str) -> "Mxfp4Tensor":
        """Return the same values on `device`."""
        return Mxfp4Tensor(self.blocks.to(device), self.scales.to(device))


def dequantize(tensor: Mxfp4Tensor, dtype: torch.dtype) -> Tensor:
    """Return the values [..., 32n] as `dtype`: float64, float32 or bfloat16.

    Exact, because a code has two significand bits and all three dtypes reach down to 2^-128. The one exception is
    what no sound checkpoint holds: beyond 2^128 float32 and bfloat16 overflow to infinity; scale 255 gives NaN.
    """
    assert dtype in {torch.float64, torch.float32, torch.bfloat16}, f"{dtype} cannot hold every MXFP4 value"
    device = tensor.blocks.device
    byte_values = _BYTE_VALUES.to(device, dtype)
    scales = _SCALES.to(device, dtype)[tensor.scales.int()]
    pairs = byte_values[tensor.blocks.int()]
    return pairs.flatten(-2).mul_(scales.unsqueeze(-1)).flatten(-2)


def quantize(weight: Tensor) -> Mxfp4Tensor:
    """Return `weight` [..., 32n] (any float dtype) rounded to MXFP4; raises ValueError if it is not finite.

    The scale of a block is the smallest power of two at which its largest magnitude, rounded to two significand bits
    (nearest, ties to even), is at most 6: no smaller scale represents that value as well, no larger one represents
    any value better. Codes then round to nearest, ties to the even code. So requantising dequantised values gives
    the same values, and a block of zeros gets scale 2^-127.
    """
    if weight.shape[-1] % BLOCK_VALUES:
        raise ValueError(f"the last dimension is {weight.shape[-1]}, not a multiple of {BLOCK_VALUES}")
    values = weight.to(torch.float32).unflatten(-1, (-1, BLOCK_VALUES))
    if not bool(torch.isfinite(values).all()):
        raise ValueError("only weights that are finite in float32 can be quantised")
    scales = _block_scales(values.abs().amax(dim=-1))
    inverse_scales = _SCALES.to(weight.device, torch.float32)[(MAX_SCALE - scales.int())]
    codes = _nearest_codes(values * inverse_scales.unsqueeze(-1))
    return Mxfp4Tensor(codes[..., 0::2] | (codes[..., 1::2] << 4), scales)


def _block_scales(largest: Tensor) -> Tensor:
    """Return the scale bytes [...] u8 for the blocks' largest magnitudes [...] f32."""
    mantissa, exponent = torch.frexp(largest)  # largest = mantissa * 2^exponent, mantissa in [0.5, 1)
    # 6 = 0.75 * 2^3. A mantissa from 0.875 rounds up to 1, past 6 * 2^(exponent - 3).
    power = exponent - 3 + (mantissa >= 0.875)
    power = torch.where(largest == 0, -SCALE_BIAS, power)
    return (power.clamp(min=-SCALE_BIAS) + SCALE_BIAS).to(torch.uint8)


def _nearest_codes(scaled: Tensor) -> Tensor:
    """Return the codes [...] u8 nearest to values [...] f32 within [-7, 7], ties to the even code."""
    magnitude = scaled.abs()
    # Codes are half a unit apart up to 2, one unit up to 4 and two beyond: the three lines meet at 2 and at 4, each is
    # the lowest where it holds, and `round` takes ties to the even code.
    codes = torch.minimum((2 * magnitude).round(), magnitude.round() + 2)
    codes = torch.minimum(codes, (magnitude / 2).round() + 4).clamp_(max=7)
    return (codes + 8 * torch.signbit(scaled)).to(torch.uint8)
