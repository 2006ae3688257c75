"""N6: in `precise` and `bf16` each op's error against float64 stays under a named bound, and under transformers' own.

Inputs are random bf16 rows, weights a random checkpoint's; transformers' layer modules are fed the same rows in bf16
and in float64 (the truth). The experts get the gate's choices of the truth, since a flipped gate makes every bound
vacuous. Errors are root mean squares relative to the truth's own.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from model.attention import prepare_step
from model.checkpoint.open import open_checkpoint
from model.checkpoint.write import write_random_checkpoint
from model.kernels.norm import rms_norm
from model.kernels.rotary import RotaryTable
from model.kv_cache import KVCache, KVCacheShape
from model.moe import GateOutput, combine
from model.transformer import Transformer
from tests.model.test_parity import load_reference
from tests.support.random_model import load_all, random_config
from tests.support.steps import one_sequence_batch

NUM_ROWS = 160
LAYER = 0
BF16_STEP = 2.0**-8
"""Relative rounding step of bf16 (8 significant bits)."""
BOUNDS: dict[str, dict[str, float]] = {
    "precise": {"norm": 1e-6, "attention": BF16_STEP, "gate": 1e-6, "experts": BF16_STEP, "head": 1e-6},
    "bf16": {"norm": BF16_STEP / 2, "attention": BF16_STEP, "gate": BF16_STEP / 2, "experts": BF16_STEP, "head": 1e-6},
}
"""Where a mode rounds to bf16, an op may lose half a step a rounding (attention: keys and values, which both move the
result; experts: their input and their output); elsewhere only f32's own rounding is left."""
INT8_EXPERTS_BOUND = 2e-2
"""For the whole of an expert in `int8`: two matmuls, each within 1e-2 by its own test, one after the other."""


Q8_DENSE_BOUND = 1.5e-2
"""For the whole of attention with both projections in 8-bit blocks: each weight is off by at most half a step of 1/127
of a block's largest, which is about 2.1 deviations; uniformly, 2.1 / 127 / sqrt(12) = 4.8e-3 of a projection's output.
Queries, keys, values and the last projection all move the result, so three times that."""
INT8_STEP = 2.5 / 127
"""Rounding step of 8 bits relative to a head's mean size: its largest value, 127 steps, is about 2.5 times that
among 32. Keys and values lose half a step each at most, and both move the result."""


class Truth:
    """transformers' layer in one dtype, answering op by op."""

    def __init__(self, model: Any, dtype: torch.dtype) -> None:
        """Take the layer's modules in `dtype`."""
        self._model = model.to(dtype)
        self._layer: Any = model.model.layers[LAYER]
        self._dtype = dtype

    @torch.inference_mode()
    def norm(self, x: Tensor) -> Tensor:
        """Return the norm before the experts."""
        return self._layer.post_attention_layernorm(x.to(self._dtype))

    @torch.inference_mode()
    def attention(self, x: Tensor) -> Tensor:
        """Return norm and attention of one sequence of rows."""
        hidden = self._layer.input_layernorm(x.to(self._dtype))[None]
        positions = torch.arange(x.shape[0])[None]
        keys, queries = positions, positions[0][:, None]
        hidden_keys = (keys > queries) | (keys <= queries - self._model.config.sliding_window)
        mask = torch.zeros(hidden_keys.shape, dtype=self._dtype).masked_fill(hidden_keys, torch.finfo(self._dtype).min)
        rotary = self._model.model.rotary_emb(hidden, positions)
        return self._layer.self_attn(hidden, attention_mask=mask[None, None], position_embeddings=rotary)[0][0]

    @torch.inference_mode()
    def gate(self, x: Tensor) -> Tensor:
        """Return all gate scores [T, E]."""
        router = self._layer.mlp.router
        return nn.functional.linear(x.to(self._dtype), router.weight, router.bias)

    @torch.inference_mode()
    def head(self, x: Tensor) -> Tensor:
        """Return the last norm and the logits [T, V]."""
        return self._model.lm_head(self._model.model.norm(x.to(self._dtype)))

    @torch.inference_mode()
    def experts(self, x: Tensor, expert_ids: Tensor, weights: Tensor) -> Tensor:
        """Return the weighted sum of the chosen experts [T, H]."""
        return self._layer.mlp.experts(x.to(self._dtype), expert_ids, weights.to(self._dtype))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a random checkpoint with dimensions in which rounding errors add up as they do in the real model."""
    config = random_config(hidden_size=256, intermediate_size=256, num_heads=8, head_dim=32, num_layers=2)
    return write_random_checkpoint(tmp_path_factory.mktemp("bounds") / "checkpoint", config, seed=5)


def relative_error(out: Tensor, truth: Tensor) -> float:
    """Return the root mean square of the error over that of the truth."""
    return ((out.double() - truth.double()).square().mean().sqrt() / truth.double().square().mean().sqrt()).item()


def assert_bounded(ours: Tensor, theirs: Tensor, truth: Tensor, bound: float) -> None:
    """Assert that our error stays under the bound and is no worse than transformers' bf16."""
    error, peer = relative_error(ours, truth), relative_error(theirs, truth)
    assert error <= bound, f"error {error:.2e} exceeds the bound {bound:.2e}"
    assert error <= peer, f"error {error:.2e} exceeds transformers' {peer:.2e}"


def rows(size: int, seed: int) -> Tensor:
    """Return random rows that bf16 holds exactly."""
    return torch.randn(NUM_ROWS, size, generator=torch.Generator().manual_seed(seed)).bfloat16().float()


def attention_of(transformer: Transformer, x: Tensor) -> Tensor:
    """Return norm and attention of one sequence of rows, its keys and values stored as the numerics say."""
    config = transformer.config
    num_blocks = NUM_ROWS // 16 + 1
    kv_cache = KVCache(config, KVCacheShape(num_blocks, num_blocks, 16), transformer.numerics.kv, "cpu")
    step = prepare_step(config, one_sequence_batch(NUM_ROWS), kv_cache, RotaryTable(config, NUM_ROWS, "cpu"))
    return transformer.layers[LAYER].attention.forward(x, step, kv_cache)


@pytest.mark.parametrize("mode", ["precise", "bf16"])
class TestBounds:
    """One op after the other."""

    def pair(self, path: Path) -> tuple[Truth, Truth]:
        """Return transformers in float64 and in bf16."""
        return Truth(load_reference(path), torch.float64), Truth(load_reference(path), torch.bfloat16)

    def test_norm(self, path: Path, mode: str) -> None:
        truth, theirs = self.pair(path)
        transformer, _ = load_all(open_checkpoint(path), mode)
        x = rows(transformer.config.hidden_size, seed=1)
        gate = open_checkpoint(path).gate(LAYER)
        ours = rms_norm(x, gate.norm, transformer.config.norm_eps).to(transformer.numerics.residual)
        assert_bounded(ours, theirs.norm(x), truth.norm(x), BOUNDS[mode]["norm"])

    def test_attention_with_keys_and_values_as_stored(self, path: Path, mode: str) -> None:
        truth, theirs = self.pair(path)
        transformer, _ = load_all(open_checkpoint(path), mode)
        x = rows(transformer.config.hidden_size, seed=2)
        ours = attention_of(transformer, x)
        assert_bounded(ours, theirs.attention(x), truth.attention(x), BOUNDS[mode]["attention"])

    def test_attention_with_keys_and_values_in_8_bits(self, path: Path, mode: str) -> None:
        truth, _ = self.pair(path)
        x = rows(256, seed=2)
        errors: list[float] = []
        for kv_cache_dtype in ("auto", "int8"):
            transformer, _ = load_all(open_checkpoint(path), mode, kv_cache_dtype)
            errors.append(relative_error(attention_of(transformer, x), truth.attention(x)))
        assert errors[0] < errors[1] <= INT8_STEP, errors

    def test_attention_with_its_projections_in_8_bits(self, path: Path, mode: str) -> None:
        truth, _ = self.pair(path)
        x = rows(256, seed=2)
        errors: list[float] = []
        for dense_weights in ("float32", "q8_0"):
            transformer, _ = load_all(open_checkpoint(path), mode, dense_weights=dense_weights)
            errors.append(relative_error(attention_of(transformer, x), truth.attention(x)))
        assert errors[0] < errors[1] <= Q8_DENSE_BOUND, errors

    def test_gate(self, path: Path, mode: str) -> None:
        truth, theirs = self.pair(path)
        transformer, _ = load_all(open_checkpoint(path), mode)
        x = rows(transformer.config.hidden_size, seed=3)
        scores = transformer.layers[LAYER].gate.scores(x)
        assert_bounded(scores, theirs.gate(x), truth.gate(x), BOUNDS[mode]["gate"])

    def test_head(self, path: Path, mode: str) -> None:
        truth, theirs = self.pair(path)
        transformer, _ = load_all(open_checkpoint(path), mode)
        x = rows(transformer.config.hidden_size, seed=5)
        ours = transformer.head(x.to(transformer.numerics.residual))
        assert_bounded(ours, theirs.head(x), truth.head(x), BOUNDS[mode]["head"])

    def test_experts_with_the_choices_of_the_truth(self, path: Path, mode: str) -> None:
        ours, theirs, truth = experts_of(path, mode)
        assert_bounded(ours, theirs, truth, BOUNDS[mode]["experts"])


def test_experts_in_int8_with_the_choices_of_the_truth(path: Path) -> None:
    """The lossy mode is held to its own bound, and must be no more exact than `precise`: else it is not on."""
    ours, _, truth = experts_of(path, "int8")
    precise = experts_of(path, "precise")[0]
    assert 2 * relative_error(precise, truth) < relative_error(ours, truth) <= INT8_EXPERTS_BOUND


def experts_of(path: Path, mode: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return the experts' weighted sum as we compute it, as transformers does in bf16, and the truth."""
    truth, theirs = Truth(load_reference(path), torch.float64), Truth(load_reference(path), torch.bfloat16)
    transformer, shard = load_all(open_checkpoint(path), mode)
    x = rows(transformer.config.hidden_size, seed=4)
    scores, expert_ids = truth.gate(x).topk(transformer.config.experts_per_token)
    weights = scores.softmax(-1)
    gate = GateOutput(expert_ids, weights.float())
    hidden = x.to(transformer.numerics.expert_input)
    ours = combine(shard.submit(LAYER, hidden, gate).wait(), gate.weights).to(transformer.numerics.residual)
    return ours, theirs.experts(x, expert_ids, weights), truth.experts(x, expert_ids, weights)
