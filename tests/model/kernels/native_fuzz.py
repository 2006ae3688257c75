"""Random shapes for every native kernel, each compared with its torch twin; prints a digest of all the bits.

Run in a process of its own by `test_native_sanitized.py`, with kernels that a sanitizer watches. Every tensor is as
large as its kernel may touch and no larger, so that a step beyond an end is a step into what the sanitizer guards.
"""

import hashlib
import random
import sys
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from model.batch import BlockTables, ForwardBatch
from model.checkpoint.random_weights import RandomWeights
from model.expert_shard import ExpertShard
from model.kernels import threads
from model.kernels.attention import AttentionPlan, paged_attention, paged_attention_torch
from model.kernels.attention_tiles import TileShape
from model.kernels.linear import LinearWeight, linear, linear_torch
from model.kernels.mxfp4_experts import mxfp4_experts
from model.kernels.mxfp4_linear import Mxfp4Weight, mxfp4_linear, mxfp4_linear_torch
from model.kernels.mxfp4_linear_int8 import mxfp4_linear_int8, mxfp4_linear_int8_torch
from model.kernels.native_library import required_library
from model.kernels.q8_linear import Q8Weight, q8_linear, q8_linear_torch
from model.moe import Finished, GateOutput
from model.mxfp4 import Mxfp4Tensor
from model.q8 import quantize
from tests.support.random_model import load_all, random_config
from tests.support.steps import random_ids, run_in_chunks

NUM_ROWS = (0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 17, 33)
TOLERANCE = 2e-3
"""Relative to the largest output: precise inputs are rounded to 15 bits, sums run in other orders."""


def main(seed: int, num_rounds: int) -> None:
    """Run every kernel `num_rounds` times and print the digest of what came out."""
    generator, digest = random.Random(seed), hashlib.sha256()
    torch.manual_seed(seed)
    kernels: tuple[Callable[[random.Random], Tensor], ...] = (
        fuzz_linear, fuzz_mxfp4, fuzz_q8, fuzz_attention, fuzz_model,
    )  # fmt: skip
    for _ in range(num_rounds):
        threads.use_threads(generator.choice((1, 2, 3)))
        for fuzz in kernels:
            digest.update(fuzz(generator).contiguous().numpy().tobytes())
    sys.stdout.write(f"{required_library().version.rpartition('/')[2]} {digest.hexdigest()}\n")


def fuzz_linear(generator: random.Random) -> Tensor:
    """Multiply by a weight of any shape, also one whose features fill no lanes."""
    features, width = generator.randint(1, 70), generator.randint(1, 130)
    dtype = generator.choice((torch.float32, torch.bfloat16))
    weight = LinearWeight.of(torch.randn(features, width).to(dtype))
    rows = torch.randn(generator.choice(NUM_ROWS), width)
    out = linear(rows, weight)
    check_close(out, linear_torch(rows, weight))
    return out


def fuzz_mxfp4(generator: random.Random) -> Tensor:
    """Pack and multiply, in both precisions; in eight bits the twin has the same bits."""
    features, blocks = 8 * generator.randint(1, 12), generator.randint(1, 9)
    codes = torch.randint(0, 256, (features, blocks, 16), dtype=torch.uint8)
    weight = Mxfp4Weight.of(Mxfp4Tensor(codes, torch.randint(118, 132, (features, blocks), dtype=torch.uint8)))
    rows, bias = torch.randn(generator.choice(NUM_ROWS), blocks * 32), torch.randn(features)
    precise, int8 = mxfp4_linear(rows, weight, bias), mxfp4_linear_int8(rows, weight, bias)
    check_close(precise, mxfp4_linear_torch(rows, weight, bias))
    if not torch.equal(int8, mxfp4_linear_int8_torch(rows, weight, bias)):
        raise SystemExit(f"mxfp4_linear_int8 differs from its twin: rows {tuple(rows.shape)}, features {features}")
    bounds = [0, len(rows) // 3, len(rows)]
    for is_int8, alone in ((False, precise), (True, int8)):
        if not torch.equal(mxfp4_experts(rows, [weight] * 2, [bias] * 2, bounds, is_int8), alone):
            raise SystemExit(f"experts together differ from alone: rows {bounds}, features {features}, {is_int8=}")
    return torch.cat((precise, int8))


def fuzz_q8(generator: random.Random) -> Tensor:
    """Multiply by a weight in 8-bit blocks, also one whose features fill no lanes; the twin has the same bits."""
    features, width = generator.randint(1, 70), 32 * generator.randint(1, 9)
    weight = Q8Weight.of(quantize(torch.randn(features, width)))
    rows = torch.randn(generator.choice(NUM_ROWS), width)
    out = q8_linear(rows, weight)
    if not torch.equal(out, q8_linear_torch(rows, weight)):
        raise SystemExit(f"q8_linear differs from its twin: rows {tuple(rows.shape)}, features {features}")
    return out


def fuzz_attention(generator: random.Random) -> Tensor:
    """Attend from the last rows of one sequence, over blocks in any order, with a window or without."""
    block_tokens, groups, per_group = generator.choice((1, 4, 16)), generator.randint(1, 3), generator.randint(1, 4)
    head_dim, num_keys = 8 * generator.randint(1, 9), generator.randint(1, 150)
    num_rows, num_blocks = generator.randint(1, min(num_keys, 9)), -(-num_keys // block_tokens)
    dtype = generator.choice((torch.float32, torch.bfloat16))
    keys, values = torch.randn(2, num_blocks + 1, block_tokens, groups, head_dim).to(dtype).unbind()
    table = np.array([generator.sample(range(1, num_blocks + 1), num_blocks)], dtype=np.int64)
    positions = np.arange(num_keys - num_rows, num_keys, dtype=np.int64)
    batch = ForwardBatch(
        np.zeros(num_rows, dtype=np.int64),
        positions,
        np.array([num_rows], dtype=np.int64),
        BlockTables(table, table),
        np.array([num_rows - 1], dtype=np.int64),
    )
    window = generator.choice((None, 1, 7, 128))
    plan = AttentionPlan(batch, table, TileShape(per_group, block_tokens, window, "cpu"))
    queries, sinks = torch.randn(num_rows, groups * per_group, head_dim), torch.randn(groups * per_group)
    arguments = queries, keys.clone(), values.clone(), plan, sinks, head_dim**-0.5
    out = paged_attention(*arguments)
    check_close(out, paged_attention_torch(*arguments))
    return out


def fuzz_model(generator: random.Random) -> Tensor:
    """Run layers and experts of a random model, each in one call; call by call the bits are the same."""
    kv_heads, experts = generator.randint(1, 3), 8 * generator.randint(1, 3)
    config = random_config(
        num_layers=2, num_experts=experts, experts_per_token=generator.randint(1, 4), num_kv_heads=kv_heads,
        num_heads=kv_heads * generator.randint(1, 4), head_dim=32, hidden_size=32 * generator.randint(1, 3),
        intermediate_size=32 * generator.randint(1, 3), sliding_window=generator.choice((1, 7, 128)),
    )  # fmt: skip
    mode = generator.choice((("precise",), ("int8",), ("precise", "auto", "q8_0")))
    transformer, shard = load_all(RandomWeights(config, seed=generator.randint(0, 99)), *mode)
    ids = random_ids(generator.randint(2, 40), config.vocab_size)
    fused = run_in_chunks(transformer, shard, ids, [len(ids) - 1, 1])
    for layer in transformer.layers:
        layer.fused = None
    single = run_in_chunks(transformer, ByExpert(shard), ids, [len(ids) - 1, 1])
    if not torch.equal(fused, single):
        raise SystemExit(f"a layer in one call differs from its kernels: {mode}, {len(ids)} rows, {config}")
    return fused


class ByExpert:
    """A shard that calls its kernels one by one."""

    def __init__(self, shard: ExpertShard) -> None:
        self._shard = shard

    def submit(self, layer: int, hidden: Tensor, gate: GateOutput) -> Finished:
        """Return the outputs of all chosen experts."""
        num_tokens, num_chosen = gate.expert_ids.shape
        rows = hidden.repeat_interleave(num_chosen, dim=0)
        outputs = self._shard.forward_by_expert(layer, rows, gate.expert_ids.flatten())
        return Finished(outputs.view(num_tokens, num_chosen, -1))


def check_close(out: Tensor, twin: Tensor) -> None:
    """End the program unless a kernel's output is its twin's, within TOLERANCE."""
    if out.shape != twin.shape:
        raise SystemExit(f"shape {tuple(out.shape)} instead of {tuple(twin.shape)}")
    if out.numel() and not bool(((out - twin).abs() <= TOLERANCE * twin.abs().max()).all()):
        raise SystemExit(f"outputs of shape {tuple(out.shape)} are off by {(out - twin).abs().max().item():.2e}")
