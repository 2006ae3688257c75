"""The CPU kernels at a model's own shapes, each beside the limit that binds it."""

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cluster.bench.roofline import Result, Roofline, durations_s
from cluster.bench.rows import BenchRow, Timing, Value, roofline_share
from model.batch import BlockTables, ForwardBatch
from model.config import ModelConfig
from model.dense_matrix import dense_matrix, multiply
from model.kernels.attention import AttentionPlan, paged_attention
from model.kernels.attention_tiles import TileShape
from model.kernels.mxfp4_linear import Mxfp4Weight, mxfp4_linear
from model.kernels.mxfp4_linear_int8 import mxfp4_linear_int8
from model.kernels.norm import rms_norm
from model.kernels.swiglu import swiglu
from model.mxfp4 import BLOCK_BYTES, BLOCK_VALUES, Mxfp4Tensor, dequantize
from model.q8 import quantize
from model.sampler import SampleRow, sample
from model.sampling_params import SamplingParams

ROWS = (1, 4, 16, 64)
CONTEXTS = (128, 1024, 8192)
NUM_REPEATS = 15
BLOCK_TOKENS = 16
NUM_COPIES = 8
"""Copies of a weight that calls go through in turn: a cache would hold one."""
_MIDDLE_SCALE = 120
_LOGIT_STD = 6.0
_Multiply = Callable[[Tensor, Mxfp4Weight, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class _Case:
    """One kernel at one size."""

    facts: dict[str, Value]
    call: Callable[[], object]
    num_bytes: float
    num_flops: float


def kernel_rows(config: ModelConfig, roof: Roofline) -> Iterator[BenchRow]:
    """Yield a row for each kernel and size of `config`."""
    generator = torch.Generator().manual_seed(0)
    for cases in (_expert_cases, _linear_cases, _attention_cases, _row_cases, _sampler_cases):
        for case in cases(config, generator):
            timing = Timing(tuple(durations_s(case.call, NUM_REPEATS)))
            share, bound = roofline_share(case.num_bytes, case.num_flops, timing.median_s, roof)
            yield BenchRow("kernel", case.facts, timing, share, bound)


def _expert_cases(config: ModelConfig, generator: torch.Generator) -> Iterator[_Case]:
    """The first matrix of an expert in both modes, each with its error against float64."""
    features, width = 2 * config.intermediate_size, config.hidden_size
    weights = [random_mxfp4(features, width, generator) for _ in range(NUM_COPIES)]
    bias = torch.zeros(features)
    kernels: dict[str, _Multiply] = {"mxfp4_linear": mxfp4_linear, "mxfp4_linear_int8": mxfp4_linear_int8}
    errors = {name: _relative_error(multiply, weights[0], generator) for name, multiply in kernels.items()}
    for num_rows, name in itertools.product(ROWS, kernels):
        rows, multiply = torch.randn(num_rows, width, generator=generator), kernels[name]
        call = in_turn([functools.partial(multiply, rows, weight, bias) for weight in weights])
        facts: dict[str, Value] = {"op": f"{name} {features} x {width}", "rows": num_rows, "error": errors[name]}
        yield _Case(facts, call, weights[0].nbytes, 2.0 * num_rows * features * width)


def _relative_error(multiply: _Multiply, weight: Mxfp4Weight, generator: torch.Generator) -> float:
    """Return the root mean square error against float64 over that of the truth, for a few rows of normal numbers."""
    dense = dequantize(weight.unpacked(), torch.float64)
    rows = torch.randn(4, dense.shape[1], generator=generator)
    truth = rows.double() @ dense.T
    error = (multiply(rows, weight, torch.zeros(dense.shape[0])).double() - truth).norm() / truth.norm()
    return float(f"{error.item():.2e}")


def _linear_cases(config: ModelConfig, generator: torch.Generator) -> Iterator[_Case]:
    """The query, key and value projection and the head, in bf16 and in 8-bit blocks."""
    shapes = ((config.qkv_size, ROWS, NUM_COPIES), (config.vocab_size, (1, 8), 1))
    width = config.hidden_size
    for (features, numbers, num_copies), kind in itertools.product(shapes, ("linear bf16", "q8_linear")):
        values = [torch.randn(features, width, generator=generator).to(torch.bfloat16) for _ in range(num_copies)]
        weights = [dense_matrix(quantize(each) if kind == "q8_linear" else each) for each in values]
        for num_rows in numbers:
            rows = torch.randn(num_rows, width, generator=generator)
            call = in_turn([lambda weight=weight, rows=rows: multiply(rows, weight) for weight in weights])
            facts: dict[str, Value] = {"op": f"{kind} {features} x {width}", "rows": num_rows}
            yield _Case(facts, call, weights[0].nbytes, 2.0 * num_rows * features * width)


def _attention_cases(config: ModelConfig, generator: torch.Generator) -> Iterator[_Case]:
    """One decoded row of a full layer at several contexts."""
    heads, groups, size = config.num_heads, config.num_kv_heads, config.head_dim
    scale, sinks = size**-0.5, torch.zeros(heads)
    for context in CONTEXTS:
        num_blocks = -(-context // BLOCK_TOKENS)
        shape = (NUM_COPIES, 2, num_blocks + 1, BLOCK_TOKENS, groups, size)
        stored = torch.randn(shape, generator=generator).to(torch.bfloat16)
        table = np.arange(1, num_blocks + 1, dtype=np.int64)[None]
        last = np.array([context - 1], dtype=np.int64)
        one = np.ones(1, dtype=np.int64)
        batch = ForwardBatch(one, last, one, BlockTables(table, table), np.zeros(1, dtype=np.int64))
        plan = AttentionPlan(batch, table, TileShape(heads // groups, BLOCK_TOKENS, None, "cpu"))
        queries = torch.randn(1, heads, size, generator=generator)

        def attend(layer: Tensor, queries: Tensor = queries, plan: AttentionPlan = plan) -> Tensor:
            return paged_attention(queries, layer[0], layer[1], plan, sinks, scale)

        call = in_turn([lambda layer=layer, attend=attend: attend(layer) for layer in stored])
        facts: dict[str, Value] = {"op": "paged_attention, one row", "context": context}
        yield _Case(facts, call, 4.0 * context * groups * size, 4.0 * context * heads * size)


def _row_cases(config: ModelConfig, generator: torch.Generator) -> Iterator[_Case]:
    """What is done to rows alone."""
    for num_rows in (1, 64):
        rows = torch.randn(num_rows, config.hidden_size, generator=generator)
        features = torch.randn(num_rows, 2 * config.intermediate_size, generator=generator)
        scale = torch.ones(config.hidden_size)
        yield _Case(
            {"op": "rms_norm", "rows": num_rows},
            lambda rows=rows, scale=scale: rms_norm(rows, scale, config.norm_eps),
            2.0 * rows.nbytes,
            4.0 * rows.numel(),
        )
        yield _Case(
            {"op": "swiglu", "rows": num_rows},
            lambda features=features: swiglu(features, config.swiglu_limit, config.swiglu_alpha),
            1.5 * features.nbytes,
            10.0 * features.numel(),
        )


def _sampler_cases(config: ModelConfig, generator: torch.Generator) -> Iterator[_Case]:
    """Sampling at temperature 1 with top_p, as requests mostly ask; logits as sharp as a trained model's."""
    for num_rows in (1, 8):
        logits = torch.randn(num_rows, config.vocab_size, generator=generator) * _LOGIT_STD
        params = SamplingParams(max_tokens=8, seed=1, top_p=0.95)
        wanted = [SampleRow(params, (1, 2, 3), 3) for _ in range(num_rows)]
        facts: dict[str, Value] = {"op": "sample, top_p 0.95", "rows": num_rows}
        yield _Case(facts, lambda logits=logits, wanted=wanted: sample(logits, wanted), logits.nbytes, logits.numel())


def random_mxfp4(features: int, width: int, generator: torch.Generator) -> Mxfp4Weight:
    """Return a packed weight [features, width] of random codes."""
    shape = features, width // BLOCK_VALUES
    blocks = torch.randint(0, 256, (*shape, BLOCK_BYTES), dtype=torch.uint8, generator=generator)
    scales = torch.full(shape, _MIDDLE_SCALE, dtype=torch.uint8)
    return Mxfp4Weight.of(Mxfp4Tensor(blocks, scales))


def in_turn(calls: Sequence[Callable[[], Result]]) -> Callable[[], Result]:
    """Return a call that makes the next of `calls` each time."""
    place = [0]

    def call() -> Result:
        place[0] = (place[0] + 1) % len(calls)
        return calls[place[0]]()

    return call
