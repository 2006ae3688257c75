"""A gpt-oss model written by the `gguf` package as llama.cpp's converter would: our reader's independent source.

Nothing of ours is used but the canonical weights: matrices are quantised by the package from their values.
"""

from pathlib import Path

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter
from torch import Tensor

from model.checkpoint.weights import ExpertMatrix, WeightSource
from model.config import ModelConfig
from tests.support.same_model import dense

NO_SPLIT = 0


def write_with_package(
    file: Path,
    source: WeightSource,
    matrices: GGMLQuantizationType = GGMLQuantizationType.BF16,
    experts: GGMLQuantizationType = GGMLQuantizationType.MXFP4,
    max_tensors: int = NO_SPLIT,
) -> None:
    """Write `source` to `file`, or to parts of `max_tensors` tensors."""
    writer = GGUFWriter(file, "gpt-oss", split_max_tensors=max_tensors)
    add_config(writer, source.config)
    head = source.head()
    add(writer, "token_embd.weight", source.embedding().embedding, matrices)
    add(writer, "output_norm.weight", head.norm)
    add(writer, "output.weight", head.unembedding, matrices)
    for layer in range(source.config.num_layers):
        add_dense(writer, source, layer, matrices)
        add_experts(writer, source, layer, experts)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_config(writer: GGUFWriter, config: ModelConfig) -> None:
    """Add the keys that llama.cpp's converter writes for this architecture."""
    writer.add_block_count(config.num_layers)
    writer.add_context_length(config.max_positions)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_expert_feed_forward_length(config.intermediate_size)
    writer.add_expert_count(config.num_experts)
    writer.add_expert_used_count(config.experts_per_token)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_sliding_window(config.sliding_window)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    writer.add_rope_scaling_factor(config.rope_factor)
    writer.add_rope_scaling_orig_ctx_len(config.rope_original_positions)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([f"token {number}" for number in range(config.vocab_size)])


def add_dense(writer: GGUFWriter, source: WeightSource, layer: int, matrices: GGMLQuantizationType) -> None:
    """Add a layer's attention and gate."""
    config, prefix = source.config, f"blk.{layer}."
    attention, gate = source.attention(layer), source.gate(layer)
    sizes = [config.num_heads * config.head_dim, *[config.num_kv_heads * config.head_dim] * 2]
    for letter, weight, bias in zip(
        "qkv", attention.qkv_weight.split(sizes), attention.qkv_bias.split(sizes), strict=True
    ):
        add(writer, f"{prefix}attn_{letter}.weight", weight, matrices)
        add(writer, f"{prefix}attn_{letter}.bias", bias)
    add(writer, prefix + "attn_output.weight", attention.out_weight, matrices)
    add(writer, prefix + "attn_output.bias", attention.out_bias)
    add(writer, prefix + "attn_sinks.weight", attention.sinks)
    add(writer, prefix + "attn_norm.weight", attention.norm)
    add(writer, prefix + "post_attention_norm.weight", gate.norm)
    add(writer, prefix + "ffn_gate_inp.weight", gate.weight)
    add(writer, prefix + "ffn_gate_inp.bias", gate.bias)


def add_experts(writer: GGUFWriter, source: WeightSource, layer: int, experts: GGMLQuantizationType) -> None:
    """Add a layer's experts, stacked, gate and linear half apart."""
    weights = [source.expert(layer, number) for number in range(source.config.num_experts)]
    mlp1, mlp2 = (values_of([getattr(each, name) for each in weights]) for name in ("mlp1", "mlp2"))
    bias1 = torch.stack([each.mlp1_bias for each in weights])
    for number, half in enumerate(("gate", "up")):
        add(writer, f"blk.{layer}.ffn_{half}_exps.weight", mlp1[:, number::2], experts)
        add(writer, f"blk.{layer}.ffn_{half}_exps.bias", bias1[:, number::2])
    add(writer, f"blk.{layer}.ffn_down_exps.weight", mlp2, experts)
    add(writer, f"blk.{layer}.ffn_down_exps.bias", torch.stack([each.mlp2_bias for each in weights]))


def values_of(matrices: list[ExpertMatrix]) -> Tensor:
    """Return the values of matrices, stacked."""
    return torch.stack([dense(matrix) for matrix in matrices])


def add(
    writer: GGUFWriter, name: str, values: Tensor, block_type: GGMLQuantizationType = GGMLQuantizationType.F32
) -> None:
    """Add a tensor quantised by the package."""
    data = gguf.quantize(np.ascontiguousarray(values.float().numpy()), block_type)
    writer.add_tensor(name, data, raw_dtype=block_type)
