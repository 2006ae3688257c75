"""Where training starts: heads that look one and two tokens back, and heads that continue a pattern seen before.

Copying needs two layers that work together, and a network as small as this one finds them late or never. So they are
laid in at the start, in the terms of this architecture: a head looks back by its query and key biases on the fast
rotary frequencies, and a head matches content on the slow ones, which distance hardly turns. Training is free to change
all of it.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from model.tiny.network import Attention, Body, TinyShape, rope_tables

NUM_FAST = 8
"""Rotary frequencies, the fastest, that tell neighbours apart."""
FIRST_SLOW = 14
"""The first rotary frequency that turns by little over some hundred tokens, of 32."""
BACK_BIAS = 4.8
MATCH_WEIGHT = 1.8
WRITE_BACK = 0.4
WRITE_COPY = 0.6
OFFSET_SIZE = 3.0
FAVOUR_WEIGHT = 2.2
FIRST_PIECE_SHARE = 0.7
"""Of a piece with a space that two others spell."""


@dataclass(frozen=True, slots=True)
class Start:
    """What the vocabulary tables need to know of the heads that were laid in."""

    written: Tensor
    """[H, H]: the turn with which a copied token's embedding is written, so that the head reads it apart."""
    spaced: Tensor
    """[H]: the offset that marks pieces with a space before them; its opposite marks those without."""


@torch.no_grad()
def lay_in_copying(body: Body, piece_turns: Tensor, generator: torch.Generator) -> Start:
    """Set the first key-value head of every layer: looking back in sliding layers, matching in full ones.

    The second key-value head of every full layer goes on spelling a piece, by `piece_turns` [P, H, H]: early, where the
    residual stream still holds little but the piece, and late, where what the early one wrote may be drowned.
    """
    shape = body.shape
    turns = [_orthogonal(shape.hidden, generator) for _ in range(2)]
    chosen, written = (_orthogonal(shape.hidden, generator) for _ in range(2))
    spaced = OFFSET_SIZE * functional.normalize(torch.randn(shape.hidden, generator=generator), dim=0)
    for place in range(shape.num_layers):
        attention = body.get_submodule(f"layers.{place}.self_attn")
        assert isinstance(attention, Attention)
        if place % 2 == 0:
            _look_back(attention, turns)
        else:
            _match(attention, turns[0], chosen, written)
            _take_away_first_piece(attention, piece_turns, written)
            _spell(attention, piece_turns, chosen, written, spaced)
    return Start(written, spaced)


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
    slow = _slow(size)
    reads = MATCH_WEIGHT * chosen[: len(slow)]
    attention.q_proj.weight[:size] *= 0.1
    attention.k_proj.weight[:size] *= 0.1
    attention.q_proj.weight[slow] = reads
    attention.k_proj.weight[slow] = reads @ turn.T
    attention.v_proj.weight[:size] = torch.eye(size, shape.hidden)
    attention.o_proj.weight[:, :size] = WRITE_COPY * written[:, :size]


def _take_away_first_piece(attention: Attention, piece_turns: Tensor, written: Tensor) -> None:
    """Let the second query head of the first key-value head look at the present token, and write it away.

    A piece with a space is its first piece plus its second one, turned. Spelling writes both; what is left without the
    first is the second, and so many other pieces would otherwise lie as near.
    """
    size = attention.shape.head_dim
    fast = torch.arange(NUM_FAST)
    attention.k_proj.bias[fast] = BACK_BIAS
    attention.q_proj.weight[size : 2 * size] *= 0.2
    attention.q_proj.bias[size + fast] = BACK_BIAS
    away = -WRITE_COPY * FIRST_PIECE_SHARE * written @ piece_turns[1].T
    attention.o_proj.weight[:, size : 2 * size] = away[:, :size]


def _spell(attention: Attention, piece_turns: Tensor, chosen: Tensor, written: Tensor, spaced: Tensor) -> None:
    """Let the second key-value head find the spaced piece whose spelling the present one belongs to.

    Its first query head matches first pieces and writes second ones; its second head matches second and writes third.
    The last of the slow frequencies holds no content: there every query favours keys with a space before them.
    """
    shape, size = attention.shape, attention.shape.head_dim
    slow = _slow(size)
    content, favour = slow[:-1], slow[-1]
    group = slice(size, 2 * size)
    attention.k_proj.weight[group] *= 0.1
    attention.k_proj.weight[size + content] = MATCH_WEIGHT * chosen[: len(content)]
    attention.k_proj.weight[size + favour] = FAVOUR_WEIGHT * spaced
    attention.v_proj.weight[group] = torch.eye(size, shape.hidden)
    first_head = shape.num_heads // shape.num_kv_heads
    for place in range(2):
        start = (first_head + place) * size
        attention.q_proj.weight[start : start + size] *= 0.1
        attention.q_proj.weight[start + content] = MATCH_WEIGHT * chosen[: len(content)] @ piece_turns[place]
        attention.q_proj.bias[start + favour] = FAVOUR_WEIGHT
        following = written @ piece_turns[place + 1].T
        attention.o_proj.weight[:, start : start + size] = WRITE_COPY * following[:, :size]


def _slow(size: int) -> Tensor:
    """Return the places in a head's query of the frequencies that distance hardly turns."""
    first = FIRST_SLOW * size // 64
    return torch.cat((torch.arange(first, size // 2), torch.arange(size // 2 + first, size)))


def _frequencies(shape: TinyShape) -> Tensor:
    """Return the rotary frequencies [D / 2], fastest first."""
    cos, sin = rope_tables(shape, torch.tensor(1))
    return torch.atan2(sin, cos)


def _orthogonal(size: int, generator: torch.Generator) -> Tensor:
    rows = torch.randn(size, size, generator=generator) / math.sqrt(size)
    return torch.linalg.qr(rows)[0]
