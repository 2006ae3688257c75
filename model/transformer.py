"""The whole model: embedding, layers, head; one step at a time over the paged cache.

A layer is split where it leaves the device: `before_experts` ends with the gate's choice, `after_experts` begins with
the experts' outputs. `Transformer.forward` walks the layers one after the other; whoever wants to overlap two
micro-batches walks two `ForwardPass`es instead.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.attention import Attention, StepTensors, prepare_step
from model.batch import ForwardBatch
from model.checkpoint.weights import AttentionWeights, GateWeights, HeadWeights
from model.config import ModelConfig
from model.dense_matrix import dense_matrix, multiply, take_rows
from model.fused_layer import fused_layer
from model.fused_step import run_layers
from model.kernels.norm import rms_norm
from model.kernels.rotary import RotaryTable
from model.kv_cache import KVCache
from model.moe import Experts, GateOutput, TopKGate, combine
from model.numerics import Numerics


@dataclass(frozen=True, slots=True)
class TransformerWeights:
    """All weights but the experts', resident on one device."""

    embedding: Tensor
    """[V, H], or [V, H / 32, 34] u8."""
    attention: Sequence[AttentionWeights]
    gates: Sequence[GateWeights]
    head: HeadWeights


class DecoderLayer:
    """One layer without its experts."""

    def __init__(
        self, config: ModelConfig, layer: int, attention: AttentionWeights, gate: GateWeights, numerics: Numerics
    ) -> None:
        """Hold the layer's dense weights."""
        self.attention = Attention(config, layer, attention)
        self._norm = gate.norm
        self._norm_eps = config.norm_eps
        self.gate = TopKGate(gate.weight, gate.bias, config.experts_per_token)
        self._numerics = numerics
        self._layer = layer
        self.fused = fused_layer(config, self.attention, self.gate, gate.norm, numerics)
        """The same in one native call, where there is one."""

    def before_experts(self, x: Tensor, step: StepTensors, kv_cache: KVCache) -> tuple[Tensor, Tensor, GateOutput]:
        """Return the residual [T, H], the experts' input [T, H] in its dtype, and the gate's choice."""
        if self.fused is not None:
            return self.fused.before_experts(x, step, kv_cache, self._layer)
        residual = (x.float() + self.attention.forward(x, step, kv_cache)).to(self._numerics.residual)
        hidden = rms_norm(residual, self._norm, self._norm_eps)
        return residual, hidden.to(self._numerics.expert_input), self.gate.choose(hidden)

    def after_experts(self, residual: Tensor, outputs: Tensor, gate: GateOutput) -> Tensor:
        """Return the layer's output [T, H] from the experts' outputs [T, K, H]."""
        return (residual.float() + combine(outputs, gate.weights)).to(self._numerics.residual)


class Transformer:
    """gpt-oss without its experts, on one device."""

    def __init__(
        self, config: ModelConfig, weights: TransformerWeights, numerics: Numerics, max_positions: int | None = None
    ) -> None:
        """Hold `weights`; positions below `max_positions` (by default the model's maximum) can be computed."""
        self.config = config
        self.numerics = numerics
        self.device = str(weights.embedding.device)
        self.layers = [
            DecoderLayer(config, layer, weights.attention[layer], weights.gates[layer], numerics)
            for layer in range(config.num_layers)
        ]
        self._embedding = weights.embedding
        self._head_norm = weights.head.norm
        self._head = dense_matrix(weights.head.unembedding)
        self._rotary = RotaryTable(config, max_positions or config.max_positions, self.device)

    def start(self, batch: ForwardBatch, kv_cache: KVCache) -> "ForwardPass":
        """Return the pass of `batch`, standing before layer 0."""
        token_ids = torch.from_numpy(batch.token_ids).to(self.device)
        x = self.embed(token_ids)
        return ForwardPass(self, kv_cache, prepare_step(self.config, batch, kv_cache, self._rotary), x, batch)

    def embed(self, token_ids: Tensor) -> Tensor:
        """Return the embedded rows [T, H] of token_ids [T] in the residual's dtype."""
        return take_rows(self._embedding, token_ids).to(self.numerics.residual)

    @torch.inference_mode()
    def forward(self, batch: ForwardBatch, kv_cache: KVCache, experts: Experts) -> Tensor:
        """Return the logits [R, V] f32 of `batch.logit_rows`; stores the batch's keys and values."""
        step = self.start(batch, kv_cache)
        if not step.run_at_once(experts):
            for layer in range(self.config.num_layers):
                hidden, gate = step.before_experts()
                step.after_experts(experts.submit(layer, hidden, gate).wait())
        return step.logits()

    def head(self, x: Tensor) -> Tensor:
        """Return the logits [R, V] f32 of residual rows x [R, H]."""
        hidden = rms_norm(x, self._head_norm, self.config.norm_eps)
        return multiply(hidden, self._head)


class ForwardPass:
    """One step on its way through the layers. Call before_experts and after_experts in turn, then logits."""

    def __init__(
        self, transformer: Transformer, kv_cache: KVCache, step: StepTensors, x: Tensor, batch: ForwardBatch
    ) -> None:
        """Stand before layer 0 with the embedded rows x [T, H]."""
        self._transformer = transformer
        self._kv_cache = kv_cache
        self._step = step
        self._x = x
        self._batch = batch
        self._layer = 0
        self._gate: GateOutput | None = None

    def run_at_once(self, experts: Experts) -> bool:
        """Run all layers in one native call, if that can be done with these experts; return whether it was done."""
        assert self._layer == 0, f"{self._layer} layers have run"
        fused = [layer.fused for layer in self._transformer.layers]
        after = run_layers(fused, self._x, self._step, self._kv_cache, experts)
        if after is not None:
            self._x, self._layer = after, len(fused)
        return after is not None

    def before_experts(self) -> tuple[Tensor, GateOutput]:
        """Run the current layer up to its experts; return their input [T, H] and the gate's choice."""
        assert self._gate is None, f"layer {self._layer} still waits for its experts"
        layer = self._transformer.layers[self._layer]
        self._x, hidden, self._gate = layer.before_experts(self._x, self._step, self._kv_cache)
        return hidden, self._gate

    def after_experts(self, outputs: Tensor) -> None:
        """Finish the current layer with its experts' outputs [T, K, H] and go on to the next."""
        assert self._gate is not None, f"layer {self._layer} has not asked its experts"
        self._x = self._transformer.layers[self._layer].after_experts(self._x, outputs, self._gate)
        self._gate = None
        self._layer += 1

    def logits(self) -> Tensor:
        """Return the logits [R, V] f32 after the last layer."""
        assert self._layer == len(self._transformer.layers), f"only {self._layer} layers have run"
        rows = torch.from_numpy(self._batch.logit_rows).to(self._x.device)
        return self._transformer.head(self._x[rows])
