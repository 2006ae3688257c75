"""A layer in one native call, and a layer's experts in one: the bits are those of their kernels called one by one."""

from typing import Any

import pytest
import torch
from torch import Tensor

from model.checkpoint.random_weights import RandomWeights
from model.expert_shard import ExpertShard
from model.kernels.native_library import native_library
from model.moe import Experts
from model.transformer import Transformer
from tests.support.random_model import load_all, random_config
from tests.support.row_independence import THREAD_COUNTS, num_threads, same_bits
from tests.support.steps import LayerByLayer, Sheet, random_ids

SHAPES: list[dict[str, Any]] = [
    {},
    {"num_heads": 8, "num_kv_heads": 4, "head_dim": 8, "num_experts": 16, "experts_per_token": 2, "sliding_window": 7},
    {"num_layers": 3, "num_heads": 14, "num_kv_heads": 2, "head_dim": 64, "hidden_size": 96},
]
FUSED_MODES = ["float32", "precise", "int8", "precise/auto/q8_0", "int8/auto/q8_0"]
OTHER_MODES = ["bf16", "precise/int8"]
"""Their residual or their cache is not as the kernel has it."""
has_native = pytest.mark.skipif(native_library() is None, reason="there are no native kernels here")


def model_of(shape: dict[str, Any], mode: str) -> tuple[Transformer, ExpertShard]:
    return load_all(RandomWeights(random_config(**shape), seed=1), *mode.split("/"))


def run(transformer: Transformer, experts: Experts) -> tuple[list[Tensor], list[Tensor]]:
    """Return every row's logits, and what the cache then holds, of two sequences prefilled and decoded together."""
    sheet = Sheet(transformer, experts, num_sequences=2, max_tokens=160)
    ids = random_ids(160, transformer.config.vocab_size)
    logits: list[Tensor] = []
    for steps in ([(0, 129), (1, 3)], [(1, 1)], [(1, 1), (0, 1)], [(0, 7)], [(0, 1), (1, 30)], [(0, 1)]):
        rows = [(who, ids[sheet.computed[who] :][:size]) for who, size in steps]
        logits += sheet.step(rows)
    stored = [sheet.kv_cache.layer(layer) for layer in range(transformer.config.num_layers)]
    return logits, [side.nan_to_num() for sides in stored for side in sides if isinstance(side, Tensor)]


@has_native
@pytest.mark.parametrize("threads", THREAD_COUNTS)
@pytest.mark.parametrize("mode", FUSED_MODES)
@pytest.mark.parametrize("shape", SHAPES)
def test_one_call_has_the_bits_of_many(shape: dict[str, Any], mode: str, threads: int) -> None:
    transformer, experts = model_of(shape, mode)
    assert all(layer.fused is not None for layer in transformer.layers)
    with num_threads(threads):
        at_once = run(transformer, experts)
        by_layer = run(transformer, LayerByLayer(experts))
        for layer in transformer.layers:
            layer.fused = None
        single = run(transformer, LayerByLayer(experts))
    for fused in (at_once, by_layer):
        for one, other in zip(fused, single, strict=True):
            assert len(one) == len(other)
            assert all(same_bits(left, right) for left, right in zip(one, other, strict=True))


@pytest.mark.parametrize("mode", OTHER_MODES)
def test_what_the_kernel_does_not_take_runs_in_single_calls(mode: str) -> None:
    transformer, experts = model_of({}, mode)
    assert all(layer.fused is None for layer in transformer.layers)
    logits, _ = run(transformer, experts)
    assert all(bool(row.isfinite().all()) for row in logits)


@has_native
def test_sizes_that_fill_no_lanes_run_in_single_calls() -> None:
    transformer, experts = model_of({"num_experts": 5}, "precise")
    assert all(layer.fused is None for layer in transformer.layers)
    run(transformer, experts)


@has_native
@pytest.mark.parametrize("threads", THREAD_COUNTS)
@pytest.mark.parametrize("mode", ["precise", "int8"])
def test_experts_in_one_call_have_the_bits_of_many(mode: str, threads: int) -> None:
    _, shard = model_of({}, mode)
    generator = torch.Generator().manual_seed(3)
    for num_rows, num_pairs in ((1, 4), (2, 8), (5, 1), (33, 132), (200, 800)):
        rows = torch.randn(num_rows, 64, generator=generator).bfloat16()
        row_ids = torch.randint(num_rows, (num_pairs,), generator=generator)
        expert_ids = torch.randint(8, (num_pairs,), generator=generator)
        with num_threads(threads):
            fused = shard.forward(1, rows, row_ids, expert_ids)
            assert same_bits(fused, shard.forward_by_expert(1, rows[row_ids], expert_ids))


@has_native
def test_an_expert_that_is_not_here_is_named_and_nothing_is_computed() -> None:
    _, shard = model_of({}, "precise")
    shard.drop(1, 6)
    pairs = torch.arange(4), torch.tensor([0, 6, 2, 7])
    with pytest.raises(KeyError, match="6"):
        shard.forward(1, torch.zeros(4, 64, dtype=torch.bfloat16), *pairs)
    shard.forward(0, torch.zeros(4, 64, dtype=torch.bfloat16), *pairs)


@has_native
def test_a_step_at_once_names_layer_and_expert_that_are_not_here() -> None:
    transformer, shard = model_of({}, "precise")
    for expert in range(8):
        shard.drop(2, expert)
    with pytest.raises(KeyError, match=r"\(2, \d\)"):
        run(transformer, shard)


@has_native
def test_a_table_in_use_outlives_a_drop() -> None:
    """Experts move while others compute: whoever began with the old table has its weights until the end."""
    from model.kernels.expert_mlp import ExpertTable, MlpWeights, expert_mlp
    from model.kernels.mxfp4_linear import Mxfp4Weight
    from model.mxfp4 import Mxfp4Tensor

    def weights(seed: int) -> MlpWeights:
        expert = RandomWeights(random_config(), seed).expert(0, 0)
        assert isinstance(expert.mlp1, Mxfp4Tensor)
        assert isinstance(expert.mlp2, Mxfp4Tensor)
        packed = Mxfp4Weight.of(expert.mlp1), Mxfp4Weight.of(expert.mlp2)
        return MlpWeights(packed[0], expert.mlp1_bias.float(), packed[1], expert.mlp2_bias.float())

    table = ExpertTable(8, {0: weights(1), 3: weights(2)})
    rows, zeros = torch.ones(1, 64, dtype=torch.bfloat16), torch.zeros(1, dtype=torch.int64)
    before = expert_mlp(rows, zeros, zeros, table, (7.0, 1.702), is_int8=False)
    other = table.with_expert(0, None).with_expert(3, weights(1))
    assert table.experts.keys() == {0, 3}
    assert other.experts.keys() == {3}
    assert same_bits(expert_mlp(rows, zeros, zeros, table, (7.0, 1.702), is_int8=False), before)
    assert same_bits(expert_mlp(rows, zeros, zeros + 3, other, (7.0, 1.702), is_int8=False), before)
