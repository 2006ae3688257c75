"""Random models in memory: any dimensions, weights from a seed, as a checkpoint or as a running transformer."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from model.checkpoint.weights import (
    AttentionWeights,
    EmbeddingWeights,
    ExpertWeights,
    GateWeights,
    HeadWeights,
    WeightSource,
)
from model.config import ModelConfig
from model.expert_shard import ExpertShard
from model.load import DenseOptions, all_experts, load_experts, load_transformer
from model.mxfp4 import quantize
from model.numerics import Numerics
from model.transformer import Transformer


def random_config(**changes: Any) -> ModelConfig:
    """Return a small gpt-oss configuration; `changes` replace its fields."""
    fields: dict[str, Any] = {
        "num_layers": 4,
        "num_experts": 8,
        "experts_per_token": 4,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_dim": 32,
        "vocab_size": 211,
        "sliding_window": 128,
        "max_positions": 8192,
        "rope_theta": 150000.0,
        "rope_factor": 32.0,
        "rope_beta_fast": 32.0,
        "rope_beta_slow": 1.0,
        "rope_original_positions": 4096,
        "rope_truncate": False,
        "norm_eps": 1e-5,
        "swiglu_limit": 7.0,
        "eos_token_ids": (2,),
        "pad_token_id": 0,
        **changes,
    }
    fields.setdefault("layer_types", tuple(("sliding", "full")[layer % 2] for layer in range(fields["num_layers"])))
    return ModelConfig(**fields)


@dataclass(frozen=True)
class RandomCheckpoint:
    """Random weights that look like a checkpoint; the same seed gives the same bits."""

    config: ModelConfig
    seed: int = 0

    def _random(self, part: int, *shape: int, std: float = 0.05) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + part)
        return (torch.randn(*shape, generator=generator) * std).bfloat16()

    def attention(self, layer: int) -> AttentionWeights:
        """Return random attention weights with large enough scores for attention to be uneven."""
        config, part = self.config, 1000 * layer
        hidden, inner = config.hidden_size, config.num_heads * config.head_dim
        qkv = inner + 2 * config.num_kv_heads * config.head_dim
        return AttentionWeights(
            norm=1 + self._random(part + 1, hidden),
            qkv_weight=self._random(part + 2, qkv, hidden, std=0.15),
            qkv_bias=self._random(part + 3, qkv),
            out_weight=self._random(part + 4, hidden, inner, std=0.1),
            out_bias=self._random(part + 5, hidden),
            sinks=self._random(part + 6, config.num_heads, std=1.0),
        )

    def gate(self, layer: int) -> GateWeights:
        """Return a random gate."""
        hidden, part = self.config.hidden_size, 1000 * layer + 100
        return GateWeights(
            norm=1 + self._random(part + 1, hidden),
            weight=self._random(part + 2, self.config.num_experts, hidden, std=0.3),
            bias=self._random(part + 3, self.config.num_experts),
        )

    def expert(self, layer: int, expert: int) -> ExpertWeights:
        """Return a random expert in MXFP4."""
        hidden, inner = self.config.hidden_size, self.config.intermediate_size
        part = 1_000_000 + 1000 * layer + 4 * expert
        return ExpertWeights(
            mlp1=quantize(self._random(part, 2 * inner, hidden, std=0.2).float()),
            mlp1_bias=self._random(part + 1, 2 * inner),
            mlp2=quantize(self._random(part + 2, hidden, inner, std=0.2).float()),
            mlp2_bias=self._random(part + 3, hidden),
        )

    def embedding(self) -> EmbeddingWeights:
        """Return a random embedding."""
        return EmbeddingWeights(self._random(500_001, self.config.vocab_size, self.config.hidden_size, std=1.0))

    def head(self) -> HeadWeights:
        """Return a random norm and unembedding."""
        hidden = self.config.hidden_size
        return HeadWeights(
            norm=1 + self._random(500_002, hidden),
            unembedding=self._random(500_003, self.config.vocab_size, hidden, std=0.2),
        )


def load_all(checkpoint: WeightSource, mode: str = "float32") -> tuple[Transformer, ExpertShard]:
    """Return the transformer and a shard with every expert of `checkpoint` on the CPU."""
    numerics = Numerics.of(mode)
    transformer = load_transformer(checkpoint, numerics, DenseOptions("cpu", torch.float32))
    shard = ExpertShard(checkpoint.config, numerics, "cpu", dequantized_bytes=10**9)
    load_experts(checkpoint, shard, all_experts(checkpoint))
    return transformer, shard
