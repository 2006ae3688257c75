"""Q8Dense: any source of weights, its attention projections and its head in 8-bit blocks.

A GGUF file that holds them so is read without widening them; others are rounded as they are read. The embedding is only
looked up, so it stays as its file has it; gates, norms, biases and sinks stay exact.
"""

from dataclasses import dataclass, replace

from torch import Tensor

from model.checkpoint.gguf.checkpoint import GgufCheckpoint
from model.checkpoint.weights import (
    AttentionWeights,
    EmbeddingWeights,
    ExpertWeights,
    GateWeights,
    HeadWeights,
    WeightSource,
)
from model.config import ModelConfig
from model.q8 import is_q8, quantize


@dataclass(frozen=True, slots=True)
class Q8Dense:
    """A `WeightSource` over another one."""

    source: WeightSource

    @classmethod
    def of(cls, source: WeightSource) -> "Q8Dense":
        """Return the weights of `source` with matrices as [N, K / 32, 34] u8."""
        return cls(source.with_q8_matrices() if isinstance(source, GgufCheckpoint) else source)

    @property
    def config(self) -> ModelConfig:
        """Return the configuration that the weights belong to."""
        return self.source.config

    def embedding(self) -> EmbeddingWeights:
        """Return the embedding, in blocks if it is stored so."""
        return self.source.embedding()

    def attention(self, layer: int) -> AttentionWeights:
        """Return the attention of `layer`, both projections in blocks."""
        weights = self.source.attention(layer)
        return replace(weights, qkv_weight=_blocks(weights.qkv_weight), out_weight=_blocks(weights.out_weight))

    def gate(self, layer: int) -> GateWeights:
        """Return the gate of `layer`, as it is."""
        return self.source.gate(layer)

    def expert(self, layer: int, expert: int) -> ExpertWeights:
        """Return one expert of `layer`, as it is."""
        return self.source.expert(layer, expert)

    def head(self) -> HeadWeights:
        """Return the last norm and the unembedding, this in blocks."""
        weights = self.source.head()
        return replace(weights, unembedding=_blocks(weights.unembedding))

    def release(self) -> None:
        """Let go of the memory that reading took."""
        self.source.release()


def _blocks(matrix: Tensor) -> Tensor:
    return matrix if is_q8(matrix) else quantize(matrix)
