"""The weights of a gpt-oss model by canonical name, whatever layout they are stored in.

As strings, the names are `embedding`, `head.norm`, `head.unembedding` and, for each layer N, `layers.N.attention.*`,
`layers.N.gate.*` and `layers.N.experts.*` with the field names below; only the experts are stacked in files.
Dense weights are bf16, as stored; norm scales may be f32, because transformers saves fine-tunes so. A source may give
the matrices of attention, embedding and head as Q8_0 blocks [N, K / 32, 34] u8 instead (see `q8_dense`).
"""

from dataclasses import dataclass
from typing import Protocol, TypeAlias

from torch import Tensor

from model.config import ModelConfig
from model.kernels.mxfp4_linear import Mxfp4Weight
from model.mxfp4 import Mxfp4Tensor

ExpertMatrix: TypeAlias = Mxfp4Tensor | Mxfp4Weight | Tensor
"""[rows, columns] as MXFP4, the same packed for the CPU kernels, or bf16 where a checkpoint was saved dequantised."""


@dataclass(frozen=True, slots=True)
class EmbeddingWeights:
    """The first layer of all."""

    embedding: Tensor
    """[V, H]."""


@dataclass(frozen=True, slots=True)
class AttentionWeights:
    """One layer's attention, with the norm before it."""

    norm: Tensor
    """[H]."""
    qkv_weight: Tensor
    """[(Q+2G)*D, H]: queries, keys, values."""
    qkv_bias: Tensor
    """[(Q+2G)*D]."""
    out_weight: Tensor
    """[H, Q*D]."""
    out_bias: Tensor
    """[H]."""
    sinks: Tensor
    """[Q]: one logit a head."""


@dataclass(frozen=True, slots=True)
class GateWeights:
    """One layer's gate, with the norm before it."""

    norm: Tensor
    """[H]."""
    weight: Tensor
    """[E, H]."""
    bias: Tensor
    """[E]."""


@dataclass(frozen=True, slots=True)
class ExpertWeights:
    """One expert of one layer."""

    mlp1: ExpertMatrix
    """[2I, H]: rows 0::2 are the gate, rows 1::2 the linear half."""
    mlp1_bias: Tensor
    """[2I]."""
    mlp2: ExpertMatrix
    """[H, I]."""
    mlp2_bias: Tensor
    """[H]."""


@dataclass(frozen=True, slots=True)
class HeadWeights:
    """What comes after the last layer."""

    norm: Tensor
    """[H]."""
    unembedding: Tensor
    """[V, H]."""


class WeightSource(Protocol):
    """Where weights come from: a checkpoint in any layout, or weights made up."""

    @property
    def config(self) -> ModelConfig:
        """The configuration that the weights belong to."""
        ...

    def embedding(self) -> EmbeddingWeights:
        """Return the embedding."""
        ...

    def attention(self, layer: int) -> AttentionWeights:
        """Return the attention of `layer`."""
        ...

    def gate(self, layer: int) -> GateWeights:
        """Return the gate of `layer`."""
        ...

    def expert(self, layer: int, expert: int) -> ExpertWeights:
        """Return one expert of `layer`."""
        ...

    def head(self) -> HeadWeights:
        """Return the last norm and the unembedding."""
        ...

    def release(self) -> None:
        """Let go of the memory that reading took; tensors returned so far stay good."""
        ...
