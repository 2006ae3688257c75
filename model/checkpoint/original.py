"""The layout of the published `original/` folder: MXFP4 experts, queries, keys and values already fused."""

import torch

from model.checkpoint.layout import (
    CheckpointFormat,
    Layout,
    PartName,
    StoredTensor,
    expert_bias_shapes,
    packed_expert_shapes,
)
from model.config import ModelConfig


def original_layout(config: ModelConfig) -> Layout:
    """Return the layout of a model with `config`."""
    vocab, hidden = config.vocab_size, config.hidden_size
    layout: Layout = {
        "embedding": (StoredTensor("embedding.weight", (vocab, hidden), "embedding"),),
        "head.norm": (StoredTensor("norm.scale", (hidden,), "norms"),),
        "head.unembedding": (StoredTensor("unembedding.weight", (vocab, hidden), "unembedding"),),
    }
    for layer in range(config.num_layers):
        layout |= _dense(config, layer) | _experts(config, layer)
    return layout


def _dense(config: ModelConfig, layer: int) -> Layout:
    hidden, experts = config.hidden_size, config.num_experts
    query_size = config.num_heads * config.head_dim
    names: dict[str, tuple[str, tuple[int, ...], PartName]] = {
        "attention.norm": ("attn.norm.scale", (hidden,), "norms"),
        "attention.qkv_weight": ("attn.qkv.weight", (config.qkv_size, hidden), "attention"),
        "attention.qkv_bias": ("attn.qkv.bias", (config.qkv_size,), "attention"),
        "attention.out_weight": ("attn.out.weight", (hidden, query_size), "attention"),
        "attention.out_bias": ("attn.out.bias", (hidden,), "attention"),
        "attention.sinks": ("attn.sinks", (config.num_heads,), "attention"),
        "gate.norm": ("mlp.norm.scale", (hidden,), "norms"),
        "gate.weight": ("mlp.gate.weight", (experts, hidden), "gate"),
        "gate.bias": ("mlp.gate.bias", (experts,), "gate"),
    }
    return {
        f"layers.{layer}.{canonical}": (StoredTensor(f"block.{layer}.{name}", shape, part),)
        for canonical, (name, shape, part) in names.items()
    }


def _experts(config: ModelConfig, layer: int) -> Layout:
    canonical, stored = f"layers.{layer}.experts.", f"block.{layer}.mlp."
    layout: Layout = {}
    for field, shape in packed_expert_shapes(config).items():
        name = stored + field.replace("_", "_weight.")
        layout[canonical + field] = (StoredTensor(name, shape, "expert_weights", torch.uint8),)
    for field, shape in expert_bias_shapes(config).items():
        layout[canonical + field] = (StoredTensor(stored + field, shape, "expert_biases"),)
    return layout


ORIGINAL = CheckpointFormat("original", original_layout, are_experts_packed=True)
