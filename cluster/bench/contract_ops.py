"""The products and the attention of a step, each as this engine does it and as torch does it by itself.

Torch has it easy: its weights lie there dequantised, its keys and values without pages, in rows of equal length, and
nobody asks how it gets from one layout to the other. Sinks are so low here that they have no weight, as torch has none.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import linear as torch_linear
from torch.nn.functional import scaled_dot_product_attention

from cluster.bench.kernels import BLOCK_TOKENS, in_turn, random_mxfp4
from model.batch import BlockTables, ForwardBatch
from model.config import ModelConfig
from model.dense_matrix import dense_matrix, multiply
from model.kernels.attention import AttentionPlan, paged_attention
from model.kernels.attention_tiles import TileShape
from model.kernels.mxfp4_linear import mxfp4_linear
from model.mxfp4 import dequantize

NUM_COPIES = 3
"""Copies of a matrix that calls go through in turn, for a cache would hold one; the head is too large for any."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_NO_SINK = -1e30
_Multiply = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class StepSize:
    """A step: so many sequences, each with `num_rows` new tokens after which it is `context` long."""

    num_sequences: int
    num_rows: int
    context: int

    @property
    def num_tokens(self) -> int:
        """Return all rows of the step."""
        return self.num_sequences * self.num_rows


@dataclass(frozen=True, slots=True)
class Op:
    """One op of a step; every call does the same work on the same values, up to rounding."""

    name: str
    calls_per_step: int
    ours: Callable[[], Tensor]
    theirs: Mapping[str, Callable[[], Tensor]]
    """By what torch computes in."""


@dataclass(frozen=True, slots=True)
class _Matrix:
    ours: _Multiply
    theirs: Mapping[str, Tensor]
    """[N, K] by dtype."""

    @classmethod
    def dense(cls, features: int, width: int, dtype: torch.dtype, generator: torch.Generator) -> "_Matrix":
        values = (torch.randn(features, width, generator=generator) * width**-0.5).to(torch.bfloat16)
        own = dense_matrix(values.to(dtype))
        return cls(lambda rows: multiply(rows, own), {name: values.to(each) for name, each in DTYPES.items()})

    @classmethod
    def mxfp4(cls, features: int, width: int, generator: torch.Generator) -> "_Matrix":
        weight, bias = random_mxfp4(features, width, generator), torch.zeros(features)
        values = dequantize(weight.unpacked(), torch.float32)
        theirs = {name: values.to(each) for name, each in DTYPES.items()}
        return cls(lambda rows: mxfp4_linear(rows, weight, bias), theirs)


class StepOps:
    """A model's matrices, random, and the ops of steps with them. Needs the native kernels."""

    def __init__(self, config: ModelConfig, dense_dtype: torch.dtype) -> None:
        """Make the matrices up, dense ones of this engine in `dense_dtype`; of 20b's shapes they take 7 GB."""
        self._config = config
        self._generator = generator = torch.Generator().manual_seed(0)
        hidden, inner, heads = config.hidden_size, config.intermediate_size, config.num_heads * config.head_dim
        shapes = {"qkv": (config.qkv_size, hidden), "out": (hidden, heads), "gate": (config.num_experts, hidden)}
        self._matrices = {
            name: [_Matrix.dense(*shape, dense_dtype, generator) for _ in range(NUM_COPIES)]
            for name, shape in shapes.items()
        }
        self._matrices["head"] = [_Matrix.dense(config.vocab_size, hidden, dense_dtype, generator)]
        for name, shape in {"experts, first": (2 * inner, hidden), "experts, second": (hidden, inner)}.items():
            self._matrices[name] = [_Matrix.mxfp4(*shape, generator) for _ in range(NUM_COPIES)]

    def of(self, size: StepSize) -> Iterator[Op]:
        """Yield the ops of a step of `size`; experts are chosen as if at random, and asked equally much."""
        config, layers = self._config, self._config.num_layers
        for name in ("qkv", "out", "gate"):
            yield self._product(name, size.num_tokens, layers)
        yield self._product("head", size.num_sequences, 1)
        num_chosen = 1 - (1 - config.experts_per_token / config.num_experts) ** size.num_tokens
        num_experts = max(1, round(config.num_experts * num_chosen))
        num_rows = max(1, round(size.num_tokens * config.experts_per_token / num_experts))
        for name in ("experts, first", "experts, second"):
            yield self._product(name, num_rows, layers * num_experts)
        for kind in sorted(set(config.layer_types)):
            yield self._attention(size, kind)

    def _product(self, name: str, num_rows: int, calls_per_step: int) -> Op:
        matrices = self._matrices[name]
        width = matrices[0].theirs["float32"].shape[1]
        rows = torch.randn(num_rows, width, generator=self._generator)
        theirs = {
            dtype: in_turn([partial(torch_linear, rows.to(each), matrix.theirs[dtype]) for matrix in matrices])
            for dtype, each in DTYPES.items()
        }
        return Op(name, calls_per_step, in_turn([partial(matrix.ours, rows) for matrix in matrices]), theirs)

    def _attention(self, size: StepSize, kind: str) -> Op:
        config = self._config
        window = config.sliding_window if kind == "sliding" else None
        shape = (2, size.num_sequences, size.context, config.num_kv_heads, config.head_dim)
        stored = torch.randn(shape, generator=self._generator).to(torch.bfloat16)
        by_head = (size.num_tokens, config.num_heads, config.head_dim)
        queries = torch.randn(by_head, generator=self._generator)
        ours = _paged(queries, stored, window, config)
        theirs = {name: _plain(queries.to(each), stored.to(each), window) for name, each in DTYPES.items()}
        return Op(f"attention, {kind}", config.layer_types.count(kind), ours, theirs)


def _paged(queries: Tensor, stored: Tensor, window: int | None, config: ModelConfig) -> Callable[[], Tensor]:
    """Return this engine's attention of queries [T, Q, D] over stored [2, S, C, G, D], laid out in pages."""
    _, num_sequences, context, *head = stored.shape
    num_rows, per_sequence = queries.shape[0] // num_sequences, -(-context // BLOCK_TOKENS)
    paged = stored.new_zeros((2, 1 + num_sequences * per_sequence, BLOCK_TOKENS, *head))
    flat = paged[:, 1:].view(2, num_sequences, per_sequence * BLOCK_TOKENS, *head)
    flat[:, :, :context] = stored
    table = np.arange(1, paged.shape[1], dtype=np.int64).reshape(num_sequences, per_sequence)
    positions = np.tile(np.arange(context - num_rows, context, dtype=np.int64), num_sequences)
    batch = ForwardBatch(
        np.zeros_like(positions),
        positions,
        np.full(num_sequences, num_rows, dtype=np.int64),
        BlockTables(table, table),
        np.zeros(1, dtype=np.int64),
    )
    plan = AttentionPlan(batch, table, TileShape(config.num_heads // config.num_kv_heads, BLOCK_TOKENS, window, "cpu"))
    sinks = torch.full((config.num_heads,), _NO_SINK)
    return lambda: paged_attention(queries, paged[0], paged[1], plan, sinks, config.head_dim**-0.5)


def _plain(queries: Tensor, stored: Tensor, window: int | None) -> Callable[[], Tensor]:
    """Return torch's attention of the same, to [T, Q, D]; of keys outside every row's window nothing is left."""
    num_sequences, context = stored.shape[1:3]
    num_rows = queries.shape[0] // num_sequences
    seen = context if window is None else min(context, window + num_rows - 1)
    keys, values = stored[:, :, context - seen :].transpose(2, 3).contiguous().unbind()
    grouped = queries.unflatten(0, (num_sequences, num_rows)).transpose(1, 2).contiguous()
    is_causal = num_rows == context and (window is None or window >= context)
    mask = None if is_causal or num_rows == 1 else _window_mask(num_rows, seen, window)

    def attend() -> Tensor:
        out = scaled_dot_product_attention(grouped, keys, values, mask, is_causal=is_causal, enable_gqa=True)
        return out.transpose(1, 2).flatten(0, 1)

    return attend


def _window_mask(num_rows: int, num_keys: int, window: int | None) -> Tensor:
    """Return [num_rows, num_keys] bool: which of the last keys the last rows see."""
    ages = torch.arange(num_keys - num_rows, num_keys)[:, None] - torch.arange(num_keys)
    return (ages >= 0) & (ages < (window or num_keys))
