"""Where training starts: heads that look one and two tokens back, and heads that continue a pattern seen before.

Copying needs two layers that work together, and a network as small as this one finds them late or never. So they are
laid in at the start, in the terms of this architecture: a head looks back by its query and key biases on the fast
rotary frequencies, and a head matches content on the slow ones, which distance hardly turns. Training is free to change
all of it.
"""

import math

import torch
from torch import Tensor

from model.tiny.network import Attention, Body, TinyShape, rope_tables

NUM_FAST = 8
"""Rotary frequencies, the fastest, that tell neighbours apart."""
FIRST_SLOW = 14
"""The first rotary frequency that turns by little over some hundred tokens, of 32."""
BACK_BIAS = 4.4
MATCH_WEIGHT = 1.8
WRITE_BACK = 0.25
WRITE_COPY = 0.6


@torch.no_grad()
def lay_in_copying(body: Body, generator: torch.Generator) -> Tensor:
    """Set the first key-value head of every layer: looking back in sliding layers, matching in full ones.

    Returns the turn [H, H] with which a copied token's embedding is written, so that the head can read it apart from
    the embedding of the present token.
    """
    shape = body.shape
    turns = [_orthogonal(shape.hidden, generator) for _ in range(2)]
    chosen, written = (_orthogonal(shape.hidden, generator) for _ in range(2))
    for place in range(shape.num_layers):
        attention = body.get_submodule(f"layers.{place}.self_attn")
        assert isinstance(attention, Attention)
        if place % 2 == 0:
            _look_back(attention, turns)
        else:
            _match(attention, turns[0], chosen, written)
    return written


def _look_back(attention: Attention, turns: list[Tensor]) -> None:
    """Let query head n of the first key-value head attend n + 1 tokens back and write that token, turned."""
    shape, size = attention.shape, attention.shape.head_dim
    frequency = _frequencies(shape)[:NUM_FAST]
    fast = torch.arange(NUM_FAST)
    attention.k_proj.weight[:size] *= 0.2
    attention.k_proj.bias[fast] = BACK_BIAS
    attention.v_proj.weight[:size] = torch.eye(size, shape.hidden)
    for head, turn in enumerate(turns):
        start, distance = head * size, head + 1
        attention.q_proj.weight[start : start + size] *= 0.2
        attention.q_proj.bias[start + fast] = BACK_BIAS * (frequency * distance).cos()
        attention.q_proj.bias[start + size // 2 + fast] = -BACK_BIAS * (frequency * distance).sin()
        attention.o_proj.weight[:, start : start + size] = WRITE_BACK * turn[:, :size]


def _match(attention: Attention, turn: Tensor, chosen: Tensor, written: Tensor) -> None:
    """Let the first query head attend where the token before equals the present one, and write what stands there."""
    shape, size = attention.shape, attention.shape.head_dim
    first = FIRST_SLOW * size // 64
    slow = torch.cat((torch.arange(first, size // 2), torch.arange(size // 2 + first, size)))
    reads = MATCH_WEIGHT * chosen[: len(slow)]
    attention.q_proj.weight[:size] *= 0.1
    attention.k_proj.weight[:size] *= 0.1
    attention.q_proj.weight[slow] = reads
    attention.k_proj.weight[slow] = reads @ turn.T
    attention.v_proj.weight[:size] = torch.eye(size, shape.hidden)
    attention.o_proj.weight[:, :size] = WRITE_COPY * written[:, :size]


def _frequencies(shape: TinyShape) -> Tensor:
    """Return the rotary frequencies [D / 2], fastest first."""
    cos, sin = rope_tables(shape, torch.tensor(1))
    return torch.atan2(sin, cos)


def _orthogonal(size: int, generator: torch.Generator) -> Tensor:
    rows = torch.randn(size, size, generator=generator) / math.sqrt(size)
    return torch.linalg.qr(rows)[0]
