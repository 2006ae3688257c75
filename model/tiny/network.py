"""gpt-oss as one differentiable float32 forward pass, for training the tiny model and for nothing else.

The same mathematics as the serving forward in `model/transformer.py`, on whole rows of packed conversations: every
expert is computed for every token and weighted by the gate, which costs little at this size and has a gradient.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.mxfp4 import BLOCK_VALUES

SWIGLU_ALPHA = 1.702
SWIGLU_LIMIT = 7.0
TOP_MANTISSA = 0.875
"""A block's largest value from this mantissa on rounds up to the next power of two: past 6, at the others' scale."""
EXPONENT_BITS = 0x7F800000
QUERY_BLOCK = 128
"""Queries that attend together in training; the keys after them are not even computed."""


@dataclass(frozen=True, slots=True)
class TinyShape:
    """The sizes of the tiny model; everything else is as in the published models."""

    hidden: int = 96
    intermediate: int = 64
    num_layers: int = 4
    num_heads: int = 4
    num_kv_heads: int = 2
    head_dim: int = 96
    num_experts: int = 8
    experts_per_token: int = 4
    window: int = 128
    theta: float = 150000.0
    factor: float = 32.0
    initial_context: int = 4096
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    epsilon: float = 1e-5


@dataclass(frozen=True, slots=True)
class Packed:
    """Packed conversations: `ids` [N, T] are row numbers, a mask says which tokens see each other."""

    ids: Tensor
    positions: Tensor
    """[N, T] i64."""
    branches: Tensor
    """[N, T] i64: 0 for a prefix that every branch sees, -1 for padding."""


def rope_tables(shape: TinyShape, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Return cos and sin [..., D/2] f32 at `positions` by YaRN, https://arxiv.org/abs/2309.00071, not truncated."""
    half = shape.head_dim // 2
    exponent = torch.arange(half, dtype=torch.float32) * 2 / shape.head_dim
    frequency = shape.theta**-exponent
    low, high = (
        half * math.log(shape.initial_context / (beta * 2 * math.pi)) / math.log(shape.theta)
        for beta in (shape.beta_fast, shape.beta_slow)
    )
    ramp = ((torch.arange(half, dtype=torch.float32) - low) / (high - low)).clamp(0, 1)
    frequency = frequency / shape.factor * ramp + frequency * (1 - ramp)
    angle = positions[..., None].float() * frequency
    concentration = 0.1 * math.log(shape.factor) + 1.0
    return angle.cos() * concentration, angle.sin() * concentration


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Return `x` [N, T, heads, D] with its halves rotated against each other."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = cos[:, :, None], sin[:, :, None]
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def masks(packed: Packed, window: int) -> tuple[Tensor, Tensor]:
    """Return the additive masks [N, 1, T, 1 + T] of sliding and of full layers; the first column is the sink's."""
    branches, positions = packed.branches, packed.positions
    place = torch.arange(branches.shape[1])
    sees = (branches[:, :, None] == branches[:, None, :]) | (branches[:, None, :] == 0)
    sees &= place[:, None] >= place[None, :]
    near = sees & (positions[:, :, None] - positions[:, None, :] < window)
    sliding, full = (functional.pad(torch.zeros(m.shape).masked_fill_(~m, -1e9), (1, 0))[:, None] for m in (near, sees))
    return sliding, full


def rounded_to_mxfp4(weight: Tensor) -> Tensor:
    """Return `weight` as MXFP4 holds it, with the gradient of `weight` itself (straight through).

    What `mxfp4.quantize` and `dequantize` give for weights of ordinary size, in a sixth of the time: no bytes are made.
    """
    with torch.no_grad():
        blocks = weight.unflatten(-1, (-1, BLOCK_VALUES))
        mantissa, exponent = torch.frexp(blocks.abs().amax(-1, keepdim=True))
        scales = torch.ldexp(torch.ones_like(mantissa), exponent - 3 + (mantissa >= TOP_MANTISSA))
        scaled = blocks / scales
        # A value from 1 on has one bit after its leading one: its step is half that power of two. Below 1 it stays.
        steps = (scaled.view(torch.int32) & EXPONENT_BITS).view(torch.float32).clamp_(1, 4).div_(2)
        values = scaled.div_(steps).round_().mul_(steps).mul_(scales).flatten(-2)
    return weight + (values - weight).detach()


class RMSNorm(nn.Module):
    """Root mean square norm with a scale."""

    def __init__(self, size: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        """Return the normed rows of `x` [..., H]."""
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.epsilon) * self.weight


class Attention(nn.Module):
    """Grouped-query attention with a learnt sink for each head."""

    def __init__(self, shape: TinyShape) -> None:
        super().__init__()
        self.shape = shape
        self.q_proj = nn.Linear(shape.hidden, shape.num_heads * shape.head_dim)
        self.k_proj = nn.Linear(shape.hidden, shape.num_kv_heads * shape.head_dim)
        self.v_proj = nn.Linear(shape.hidden, shape.num_kv_heads * shape.head_dim)
        self.o_proj = nn.Linear(shape.num_heads * shape.head_dim, shape.hidden)
        self.sinks = nn.Parameter(torch.zeros(shape.num_heads))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        """Return the attention's output [N, T, H] for normed rows `x` [N, T, H]."""
        shape, (n, t, _) = self.shape, x.shape
        q = rotate(self.q_proj(x).view(n, t, -1, shape.head_dim), cos, sin)
        k = rotate(self.k_proj(x).view(n, t, -1, shape.head_dim), cos, sin)
        v = self.v_proj(x).view(n, t, -1, shape.head_dim)
        # One more key and value of zeros stands for the sink: its score is the sink's logit alone.
        k, v = (functional.pad(one, (0, 0, 0, 0, 1, 0)).transpose(1, 2) for one in (k, v))
        q = (q * shape.head_dim**-0.5).transpose(1, 2)
        out = torch.stack([self._attend_row(q[row], k[row], v[row], mask[row]) for row in range(n)])
        return self.o_proj(out.transpose(1, 2).flatten(2))

    def _attend_row(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        """Return [heads, T, D], block by block of queries: scores stay in the cache, later keys are left out."""
        t = q.shape[1]
        ends = [min(start + QUERY_BLOCK, t) for start in range(0, t, QUERY_BLOCK)]
        parts = [
            self._attend(q[:, start:end], k[:, : end + 1], v[:, : end + 1], mask[:, start:end, : end + 1])
            for start, end in zip([0, *ends], ends, strict=False)
        ]
        return torch.cat(parts, dim=1)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        """Return [heads, Q, D] for queries [heads, Q, D], keys and values [kv heads, 1 + K, D], mask [1, Q, 1 + K]."""
        heads, num_queries, size = q.shape
        num_keys = k.shape[1]
        grouped = q.reshape(len(k), -1, size)
        scores = (grouped @ k.transpose(-1, -2)).view(heads, num_queries, num_keys)
        sink = functional.pad(self.sinks[:, None], (0, num_keys - 1))[:, None]
        weights = (scores + (mask + sink)).softmax(-1)
        return (weights.view(len(k), -1, num_keys) @ v).view(heads, num_queries, size)


class Experts(nn.Module):
    """The gate and all experts of a layer."""

    def __init__(self, shape: TinyShape) -> None:
        super().__init__()
        experts, hidden, middle = shape.num_experts, shape.hidden, shape.intermediate
        self.top_k = shape.experts_per_token
        self.router = nn.Linear(hidden, experts)
        self.gate_up_proj = nn.Parameter(torch.randn(experts, 2 * middle, hidden) * hidden**-0.5)
        self.gate_up_proj_bias = nn.Parameter(torch.zeros(experts, 2 * middle))
        self.down_proj = nn.Parameter(torch.randn(experts, hidden, middle) * (middle * 2 * shape.num_layers) ** -0.5)
        self.down_proj_bias = nn.Parameter(torch.zeros(experts, hidden))
        self.is_quantized = False
        self.disabled: int | None = None
        """An expert whose output is put to zero, to see whether it matters."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weighted sum of the chosen experts for rows `x` [M, H], and the load-balancing loss."""
        scores = self.router(x)
        top = scores.topk(self.top_k, dim=-1)
        weights = torch.zeros_like(scores).scatter(-1, top.indices, top.values.softmax(-1))
        up, down = self.gate_up_proj, self.down_proj
        if self.is_quantized:
            up, down = rounded_to_mxfp4(up), rounded_to_mxfp4(down)
        h = torch.addmm(self.gate_up_proj_bias.flatten(), x, up.flatten(0, 1).T).unflatten(-1, up.shape[:2])
        gate, linear = h[..., 0::2].clamp(max=SWIGLU_LIMIT), h[..., 1::2].clamp(-SWIGLU_LIMIT, SWIGLU_LIMIT)
        h = gate * torch.sigmoid(SWIGLU_ALPHA * gate) * (linear + 1)
        used = (weights > 0).float().mean(0)
        balance = len(up) / self.top_k * (used * scores.softmax(-1).mean(0)).sum()
        if self.disabled is not None:
            weights = weights * (torch.arange(len(up)) != self.disabled)
        # The gate's weights go in before the last product, so that one product sums over experts too.
        weighted = (weights[:, :, None] * h).flatten(1)
        return torch.addmm(weights @ self.down_proj_bias, weighted, down.transpose(1, 2).flatten(0, 1)), balance


class Layer(nn.Module):
    """One transformer layer."""

    def __init__(self, shape: TinyShape) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(shape.hidden, shape.epsilon)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = RMSNorm(shape.hidden, shape.epsilon)
        self.mlp = Experts(shape)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the residual stream after the layer and its load-balancing loss."""
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, mask)
        y, balance = self.mlp(self.post_attention_layernorm(x).flatten(0, 1))
        return x + y.view_as(x), balance


class Body(nn.Module):
    """The layers and the last norm: everything between the embedding and the head."""

    def __init__(self, shape: TinyShape) -> None:
        super().__init__()
        self.shape = shape
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.num_layers))
        self.norm = RMSNorm(shape.hidden, shape.epsilon)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
                nn.init.zeros_(module.bias)
        for layer in self.layers:
            assert isinstance(layer, Layer)
            layer.self_attn.o_proj.weight.data *= (2 * shape.num_layers) ** -0.5

    def forward(self, x: Tensor, packed: Packed) -> tuple[Tensor, Tensor]:
        """Return normed hidden rows [N, T, H] for embedded rows `x`, and the mean load-balancing loss."""
        cos, sin = rope_tables(self.shape, packed.positions)
        sliding, full = masks(packed, self.shape.window)
        losses: list[Tensor] = []
        for place, layer in enumerate(self.layers):
            x, loss = layer(x, cos, sin, full if place % 2 else sliding)
            losses.append(loss)
        return self.norm(x), torch.stack(losses).mean()
