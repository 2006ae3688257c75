"""The names of gpt-oss tensors in GGUF, as llama.cpp has them and as Ollama's own converter did.

llama.cpp's architecture is `gpt-oss`. Ollama's is `gptoss`: some names differ, and its first files kept queries, keys
and values in one tensor, and the gate's rows interleaved with the linear half's.
"""

from collections.abc import Collection

from model.checkpoint.layout import CheckpointFormat, Layout, PartName, StoredTensor
from model.config import ModelConfig

_DENSE: dict[str, tuple[tuple[str, ...], ...]] = {
    "attention.norm": (("attn_norm.weight",),),
    "attention.qkv_weight": (("attn_q.weight", "attn_k.weight", "attn_v.weight"), ("attn_qkv.weight",)),
    "attention.qkv_bias": (("attn_q.bias", "attn_k.bias", "attn_v.bias"), ("attn_qkv.bias",)),
    "attention.out_weight": (("attn_output.weight",), ("attn_out.weight",)),
    "attention.out_bias": (("attn_output.bias",), ("attn_out.bias",)),
    "attention.sinks": (("attn_sinks.weight",), ("attn_sinks",)),
    "gate.norm": (("post_attention_norm.weight",), ("ffn_norm.weight",)),
    "gate.weight": (("ffn_gate_inp.weight",),),
    "gate.bias": (("ffn_gate_inp.bias",),),
}
"""By canonical name within a layer: the stored names of llama.cpp, then those that stand for them elsewhere."""
_SPLIT_EXPERTS = {
    "gate_weight": "ffn_gate_exps.weight",
    "up_weight": "ffn_up_exps.weight",
    "gate_bias": "ffn_gate_exps.bias",
    "up_bias": "ffn_up_exps.bias",
    "mlp2_weight": "ffn_down_exps.weight",
    "mlp2_bias": "ffn_down_exps.bias",
}
_FUSED_EXPERTS = {
    "mlp1_weight": "ffn_gate_up_exps.weight",
    "mlp1_bias": "ffn_gate_up_exps.bias",
    "mlp2_weight": "ffn_down_exps.weight",
    "mlp2_bias": "ffn_down_exps.bias",
}


def gguf_layout(config: ModelConfig, names: Collection[str] = ()) -> Layout:
    """Return the layout of a model with `config` in a file that holds `names`, which decide where names differ.

    An expert's gate and linear half are canonical tensors of their own here, `experts.gate_weight` and so on, unless
    the file holds them as one.
    """
    vocab, hidden = config.vocab_size, config.hidden_size
    layout: Layout = {
        "embedding": (StoredTensor("token_embd.weight", (vocab, hidden), "embedding"),),
        "head.norm": (StoredTensor("output_norm.weight", (hidden,), "norms"),),
        "head.unembedding": (StoredTensor("output.weight", (vocab, hidden), "unembedding"),),
    }
    for layer in range(config.num_layers):
        layout |= _layer(config, layer, names)
    return layout


def _layer(config: ModelConfig, layer: int, names: Collection[str]) -> Layout:
    prefix = f"blk.{layer}."
    shapes = _weight_shapes(config)

    def stored(name: str) -> StoredTensor:
        stem, _, kind = name.partition(".")
        shape = shapes[stem][:-1] if kind == "bias" else shapes[stem]
        return StoredTensor(prefix + name, shape, _part(stem, kind))

    layout: Layout = {}
    for canonical, alternatives in _DENSE.items():
        present = (group for group in alternatives if any(prefix + name in names for name in group))
        layout[f"layers.{layer}.{canonical}"] = tuple(map(stored, next(present, alternatives[0])))
    experts = _FUSED_EXPERTS if prefix + _FUSED_EXPERTS["mlp1_weight"] in names else _SPLIT_EXPERTS
    return layout | {f"layers.{layer}.experts.{field}": (stored(name),) for field, name in experts.items()}


def _weight_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape of each weight by its name's stem; a bias lacks the last dimension."""
    hidden, inner, experts = config.hidden_size, config.intermediate_size, config.num_experts
    query_size, kv_size = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    norms = dict.fromkeys(("attn_norm", "post_attention_norm", "ffn_norm"), (hidden,))
    out = dict.fromkeys(("attn_output", "attn_out"), (hidden, query_size))
    return {
        **norms,
        **out,
        "attn_q": (query_size, hidden),
        "attn_k": (kv_size, hidden),
        "attn_v": (kv_size, hidden),
        "attn_qkv": (config.qkv_size, hidden),
        "attn_sinks": (config.num_heads,),
        "ffn_gate_inp": (experts, hidden),
        "ffn_gate_exps": (experts, inner, hidden),
        "ffn_up_exps": (experts, inner, hidden),
        "ffn_gate_up_exps": (experts, 2 * inner, hidden),
        "ffn_down_exps": (experts, hidden, inner),
    }


def _part(stem: str, kind: str) -> PartName:
    if stem.endswith("_norm"):
        return "norms"
    if stem.endswith("_exps"):
        return "expert_biases" if kind == "bias" else "expert_weights"
    return "gate" if stem == "ffn_gate_inp" else "attention"


GGUF = CheckpointFormat("gguf", gguf_layout, are_experts_packed=True)
