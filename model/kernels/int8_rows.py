"""Keys and values in 8 bits: each head of each token has a scale of its own, so that no row depends on another (N1).

    stored = round(value / scale),  scale = largest magnitude of the head / 127

A value is off by half a scale at most: 1/254 of its head's largest. Whoever reads takes stored * scale, rounded to
f32 once, and computes as with any other cache; so the mode's loss happens here and nowhere else.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

LARGEST = 127
"""The range is symmetric: -128 is not used."""


@dataclass(frozen=True, slots=True)
class Int8Rows:
    """Rows of heads, quantised."""

    stored: Tensor
    """[..., G, D] int8."""
    scales: Tensor
    """[..., G] f32."""

    @property
    def shape(self) -> torch.Size:
        """Return the shape of the values."""
        return self.stored.shape

    @property
    def nbytes(self) -> int:
        """Return the bytes of values and scales."""
        return self.stored.nbytes + self.scales.nbytes

    def dequantize(self) -> Tensor:
        """Return the values [..., G, D] f32."""
        return self.stored.float() * self.scales[..., None]


Paged = Tensor | Int8Rows
"""Keys or values of one layer, [B, block_tokens, G, D] f32 or bf16, or quantised."""


def quantize_rows(rows: Tensor) -> Int8Rows:
    """Return rows [..., G, D] f32 in 8 bits. A head that is not finite stays so: its scale is infinite or NaN."""
    scales = rows.abs().amax(dim=-1) / LARGEST
    # A head of zeros has scale 0; so has one too small for f32 to hold a 127th of.
    divisors = torch.where(scales == 0, torch.ones_like(scales), scales)
    quotients = torch.nan_to_num(rows / divisors[..., None], nan=0.0, posinf=0.0, neginf=0.0)
    return Int8Rows(quotients.round().clamp(-LARGEST, LARGEST).to(torch.int8), scales)


def head_bytes(head_dim: int, dtype: torch.dtype) -> int:
    """Return the bytes of one head of one token in a cache of `dtype`, its scale included."""
    return head_dim * dtype.itemsize + (torch.float32.itemsize if dtype == torch.int8 else 0)
