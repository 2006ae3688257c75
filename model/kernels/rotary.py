"""Rotary position embedding with YaRN's frequencies: the table, and its application."""

import math

import torch
from torch import Tensor

from model.config import ModelConfig
from model.kernels.native_library import native_library
from model.kernels.threads import num_threads

_CHUNK_POSITIONS = 4096


class RotaryTable:
    """cos and sin of every position, times YaRN's concentration, as [positions, D/2] f32 each."""

    def __init__(self, config: ModelConfig, num_positions: int, device: str) -> None:
        """Compute the table for positions 0 .. num_positions - 1."""
        frequencies = inverse_frequencies(config)
        cos, sin = [], []
        for first in range(0, num_positions, _CHUNK_POSITIONS):
            positions = torch.arange(first, min(first + _CHUNK_POSITIONS, num_positions), dtype=torch.float32)
            # The angle is an f32 product, as in every reference: at position 100,000 its rounding is visible.
            angles = (positions[:, None] * frequencies[None, :]).double()
            cos.append(angles.cos().float() * concentration(config))
            sin.append(angles.sin().float() * concentration(config))
        self.cos = torch.cat(cos).to(device)
        self.sin = torch.cat(sin).to(device)

    def rows(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return cos and sin [T, 1, D/2] for positions [T], ready to rotate [T, heads, D]."""
        return self.cos[positions][:, None], self.sin[positions][:, None]


def inverse_frequencies(config: ModelConfig) -> Tensor:
    """Return YaRN's inverse frequencies [D/2] f32 (arXiv 2309.00071; config.json's rope_scaling)."""
    half = config.head_dim // 2
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    periods = config.rope_theta**exponents
    if config.rope_factor == 1.0:
        return 1.0 / periods
    low, high = (_rotations_dimension(config, beta) for beta in (config.rope_beta_fast, config.rope_beta_slow))
    if config.rope_truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, config.head_dim - 1)
    span = max(high - low, 0.001)
    keep = 1 - ((torch.arange(half, dtype=torch.float32) - low) / span).clamp(0, 1)
    return 1.0 / (config.rope_factor * periods) * (1 - keep) + 1.0 / periods * keep


def concentration(config: ModelConfig) -> float:
    """Return YaRN's factor on cos and sin: 0.1 ln(factor) + 1, which is 1 without scaling."""
    return 0.1 * math.log(config.rope_factor) + 1.0


def _rotations_dimension(config: ModelConfig, num_rotations: float) -> float:
    """Return the dimension whose wave turns `num_rotations` times within the original context."""
    turns = config.rope_original_positions / (num_rotations * 2 * math.pi)
    return config.head_dim * math.log(turns) / (2 * math.log(config.rope_theta))


def rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Return heads [T, N, D] f32 rotated by cos and sin [T, 1, D/2]; the halves of D are the pairs."""
    library = native_library()
    if library is None or heads.device.type != "cpu":
        return rotate_torch(heads, cos, sin)
    num_rows, num_heads, size = heads.shape
    out = torch.empty(heads.shape, dtype=torch.float32)
    if heads.stride()[1:] != (size, 1):  # a row's heads may lie among others, but one after the other
        heads = heads.contiguous()
    angles, sizes = (cos.contiguous(), sin.contiguous()), (num_rows, num_heads, size // 2)
    library.call("em_rotate", heads, heads.stride(0), *angles, *sizes, out, threads=num_threads())
    return out


def rotate_torch(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Return what `rotate` does, with the same bits, in torch."""
    first, second = heads.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
