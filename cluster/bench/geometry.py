"""Models to measure with: a published geometry with weights made up on the spot, or a checkpoint."""

from dataclasses import replace

from cluster.model_source import open_model
from model.checkpoint.random_weights import RandomWeights
from model.checkpoint.weights import WeightSource
from model.config import ModelConfig

WEIGHT_SEED = 0
_SHARED = {
    "architectures": ["GptOssForCausalLM"], "model_type": "gpt_oss", "experts_per_token": 4, "head_dim": 64,
    "hidden_size": 2880, "intermediate_size": 2880, "num_attention_heads": 64, "num_key_value_heads": 8,
    "num_experts_per_tok": 4, "sliding_window": 128, "vocab_size": 201088, "rms_norm_eps": 1e-5, "swiglu_limit": 7.0,
    "max_position_embeddings": 131072, "initial_context_length": 4096, "rope_theta": 150000.0, "attention_bias": True,
    "tie_word_embeddings": False, "eos_token_id": 200002, "pad_token_id": 199999, "hidden_act": "silu",
    "rope_scaling": {
        "beta_fast": 32.0, "beta_slow": 1.0, "factor": 32.0, "original_max_position_embeddings": 4096,
        "rope_type": "yarn", "truncate": False,
    },
}  # fmt: skip
_GEOMETRIES = {"gpt-oss-20b": (24, 32), "gpt-oss-120b": (36, 128)}
"""Layers and experts; https://huggingface.co/openai/gpt-oss-20b and -120b, config.json."""
GEOMETRIES = tuple(_GEOMETRIES)


def published_config(name: str, num_layers: int | None = None) -> ModelConfig:
    """Return a published model's configuration, cut to its first layers if a number is given."""
    most, num_experts = _GEOMETRIES[name]
    wanted = most if num_layers is None else num_layers
    if not 1 <= wanted <= most:
        raise ValueError(f"layers is {wanted}; {name} has 1 to {most}")
    kinds = ["sliding_attention", "full_attention"] * (most // 2)
    document = {**_SHARED, "num_hidden_layers": most, "num_local_experts": num_experts, "layer_types": kinds}
    config = ModelConfig.from_json(document)
    return replace(config, num_layers=wanted, layer_types=config.layer_types[:wanted])


def open_geometry(name: str, num_layers: int | None) -> WeightSource:
    """Return weights of a published geometry by name, or the checkpoint at a path. Raises what opening it raises."""
    if name in _GEOMETRIES:
        return RandomWeights(published_config(name, num_layers), WEIGHT_SEED)
    if num_layers is not None:
        raise ValueError(f"layers is {num_layers}; only a geometry of {', '.join(GEOMETRIES)} can be cut")
    return open_model(name)
