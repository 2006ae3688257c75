"""The names in Hugging Face's layouts; `packed` and `bf16` say how they hold the experts' matrices."""

from collections.abc import Callable

from model.checkpoint.layout import Layout, StoredTensor, expert_bias_shapes
from model.config import ModelConfig

EXPERT_NAMES = {"mlp1": "gate_up_proj", "mlp2": "down_proj"}


def expert_prefix(layer: int) -> str:
    """Return how the names of the experts of `layer` begin."""
    return f"model.layers.{layer}.mlp.experts."


def hugging_face_layout(config: ModelConfig, expert_matrices: Callable[[ModelConfig, int], Layout]) -> Layout:
    """Return the layout of a model with `config`, given the one of each layer's expert matrices."""
    vocab, hidden = config.vocab_size, config.hidden_size
    layout: Layout = {
        "embedding": (StoredTensor("model.embed_tokens.weight", (vocab, hidden), "embedding"),),
        "head.norm": (StoredTensor("model.norm.weight", (hidden,), "norms"),),
        "head.unembedding": (StoredTensor("lm_head.weight", (vocab, hidden), "unembedding"),),
    }
    for layer in range(config.num_layers):
        layout |= _attention(config, layer) | _gate(config, layer)
        layout |= expert_matrices(config, layer) | _expert_biases(config, layer)
    return layout


def _attention(config: ModelConfig, layer: int) -> Layout:
    stored, prefix = f"model.layers.{layer}.", f"layers.{layer}.attention."
    hidden, query_size = config.hidden_size, config.num_heads * config.head_dim
    kv_size = config.num_kv_heads * config.head_dim
    projections = {"q_proj": query_size, "k_proj": kv_size, "v_proj": kv_size}

    def tensor(name: str, *shape: int) -> StoredTensor:
        return StoredTensor(f"{stored}self_attn.{name}", shape, "attention")

    return {
        prefix + "norm": (StoredTensor(f"{stored}input_layernorm.weight", (hidden,), "norms"),),
        prefix + "qkv_weight": tuple(tensor(f"{name}.weight", rows, hidden) for name, rows in projections.items()),
        prefix + "qkv_bias": tuple(tensor(f"{name}.bias", rows) for name, rows in projections.items()),
        prefix + "out_weight": (tensor("o_proj.weight", hidden, query_size),),
        prefix + "out_bias": (tensor("o_proj.bias", hidden),),
        prefix + "sinks": (tensor("sinks", config.num_heads),),
    }


def _gate(config: ModelConfig, layer: int) -> Layout:
    stored, prefix = f"model.layers.{layer}.", f"layers.{layer}.gate."
    hidden, experts = config.hidden_size, config.num_experts
    return {
        prefix + "norm": (StoredTensor(f"{stored}post_attention_layernorm.weight", (hidden,), "norms"),),
        prefix + "weight": (StoredTensor(f"{stored}mlp.router.weight", (experts, hidden), "gate"),),
        prefix + "bias": (StoredTensor(f"{stored}mlp.router.bias", (experts,), "gate"),),
    }


def _expert_biases(config: ModelConfig, layer: int) -> Layout:
    shapes = expert_bias_shapes(config)
    return {
        f"layers.{layer}.experts.{matrix}_bias": (
            StoredTensor(f"{expert_prefix(layer)}{stored}_bias", shapes[f"{matrix}_bias"], "expert_biases"),
        )
        for matrix, stored in EXPERT_NAMES.items()
    }
