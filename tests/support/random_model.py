"""Small configurations of any dimensions, and running models from a source of weights."""

from typing import Any

import torch

from model.checkpoint.weights import WeightSource
from model.config import ModelConfig
from model.expert_shard import ExpertShard
from model.load import DenseOptions, all_experts, load_experts, load_transformer
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


def load_all(
    checkpoint: WeightSource,
    mode: str = "float32",
    kv_cache_dtype: str = "auto",
    dense_weights: str = "float32",
    device: str = "cpu",
) -> tuple[Transformer, ExpertShard]:
    """Return the transformer and a shard with every expert of `checkpoint` on `device`."""
    numerics = Numerics.of(mode, kv_cache_dtype, dense_weights)
    transformer = load_transformer(checkpoint, numerics, DenseOptions(device, torch.float32))
    shard = ExpertShard(checkpoint.config, numerics, device, dequantized_bytes=10**9)
    load_experts(checkpoint, shard, all_experts(checkpoint))
    return transformer, shard
