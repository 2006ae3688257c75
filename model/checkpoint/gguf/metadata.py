"""How a GGUF file's metadata says a ModelConfig: read from llama.cpp's keys or Ollama's, written under llama.cpp's.

Absent there, and constants of the architecture: the alternation of sliding and full layers, the SwiGLU's limit and
gain, and that YaRN's bounds are not rounded.
"""

from collections.abc import Mapping
from dataclasses import fields as dataclass_fields
from typing import NamedTuple, TypeAlias

from model.checkpoint.gguf.header import MetadataValue, SkippedArray, shortest_float
from model.config import HARMONY_EOS_TOKEN_IDS, SWIGLU_ALPHA, ModelConfig, alternating_layer_types
from model.config_document import ConfigDocument
from model.config_json import MAX_LAYERS
from model.errors import ConfigError

ARCHITECTURE = "gpt-oss"
ARCHITECTURES = (ARCHITECTURE, "gptoss")
"""llama.cpp's name, and Ollama's."""
SWIGLU_LIMIT = 7.0
ConfigValue: TypeAlias = int | float | str | list[int]
TOKENS_KEY = "tokenizer.ggml.tokens"

_EOS, _ALL_EOS, _PAD = (
    "tokenizer.ggml.eos_token_id",
    "tokenizer.ggml.eos_token_ids",
    "tokenizer.ggml.padding_token_id",
)


class SizedByTensors(NamedTuple):
    """What a file may leave to its tensors' shapes."""

    vocab_size: int | None
    intermediate_size: int | None


def read_gguf_config(metadata: Mapping[str, MetadataValue], sizes: SizedByTensors) -> ModelConfig:
    """Return the configuration that `metadata` says; raises ConfigError naming the key."""
    document = ConfigDocument(metadata)
    document.expect("general.architecture", *ARCHITECTURES)
    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, str):
        raise document.error("general.architecture", "is missing, or no string")
    prefix = f"{architecture}."
    own = {key.removeprefix(prefix): value for key, value in metadata.items() if key.startswith(prefix)}
    fields = ConfigDocument(own, prefix)
    _refuse_what_we_do_not_compute(fields)
    num_layers = fields.positive_int("block_count", MAX_LAYERS)
    vocab_size = _vocab_size(metadata, fields, sizes)
    eos = document.token_ids(_ALL_EOS)
    pad = document.token_ids(_PAD)
    return ModelConfig(
        num_layers=num_layers,
        num_experts=fields.positive_int("expert_count"),
        experts_per_token=fields.positive_int("expert_used_count"),
        hidden_size=fields.positive_int("embedding_length"),
        intermediate_size=_intermediate_size(fields, sizes),
        num_heads=fields.positive_int("attention.head_count"),
        num_kv_heads=fields.positive_int("attention.head_count_kv"),
        head_dim=fields.positive_int("attention.key_length"),
        vocab_size=vocab_size,
        sliding_window=fields.positive_int("attention.sliding_window"),
        layer_types=alternating_layer_types(num_layers),
        max_positions=fields.positive_int("context_length"),
        rope_theta=fields.positive_float("rope.freq_base"),
        rope_factor=fields.positive_float("rope.scaling.factor"),
        rope_beta_fast=fields.positive_float("rope.scaling.yarn_beta_fast", default=32.0),
        rope_beta_slow=fields.positive_float("rope.scaling.yarn_beta_slow", default=1.0),
        rope_original_positions=fields.positive_int("rope.scaling.original_context_length"),
        rope_truncate=False,
        norm_eps=fields.positive_float("attention.layer_norm_rms_epsilon"),
        swiglu_limit=SWIGLU_LIMIT,
        swiglu_alpha=SWIGLU_ALPHA,
        # A single eos_token_id is not enough: it would let tool calls run on.
        eos_token_ids=eos or tuple(each for each in HARMONY_EOS_TOKEN_IDS if each < vocab_size),
        pad_token_id=pad[0] if pad else None,
    )


def write_gguf_config(config: ModelConfig) -> Mapping[str, ConfigValue]:
    """Return the keys that say `config`; raises ConfigError for what GGUF cannot say of this architecture."""
    values: dict[str, ConfigValue] = {
        "block_count": config.num_layers,
        "context_length": config.max_positions,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "expert_feed_forward_length": config.intermediate_size,
        "expert_count": config.num_experts,
        "expert_used_count": config.experts_per_token,
        "vocab_size": config.vocab_size,
        "attention.head_count": config.num_heads,
        "attention.head_count_kv": config.num_kv_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "attention.layer_norm_rms_epsilon": shortest_float(config.norm_eps),
        "attention.sliding_window": config.sliding_window,
        "rope.dimension_count": config.head_dim,
        "rope.freq_base": shortest_float(config.rope_theta),
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": shortest_float(config.rope_factor),
        "rope.scaling.original_context_length": config.rope_original_positions,
        "rope.scaling.yarn_beta_fast": shortest_float(config.rope_beta_fast),
        "rope.scaling.yarn_beta_slow": shortest_float(config.rope_beta_slow),
    }
    metadata: dict[str, ConfigValue] = {"general.architecture": ARCHITECTURE}
    metadata |= {f"{ARCHITECTURE}.{key}": value for key, value in values.items()}
    if config.eos_token_ids:
        metadata |= {_EOS: config.eos_token_ids[0], _ALL_EOS: list(config.eos_token_ids)}
    if config.pad_token_id is not None:
        metadata[_PAD] = config.pad_token_id
    read_back = read_gguf_config(metadata, SizedByTensors(None, None))
    for field in dataclass_fields(ModelConfig):
        value = getattr(config, field.name)
        if getattr(read_back, field.name) != value:
            raise ConfigError(field.name, value, "cannot be said in GGUF")
    return metadata


def _refuse_what_we_do_not_compute(fields: ConfigDocument) -> None:
    fields.expect("rope.scaling.type", "yarn")
    if fields.has("attention.key_length"):
        head_dim = fields.positive_int("attention.key_length")
        fields.expect("attention.value_length", head_dim)
        fields.expect("rope.dimension_count", head_dim)
    fields.expect("attention.sliding_window_pattern", 2)


def _vocab_size(metadata: Mapping[str, MetadataValue], fields: ConfigDocument, sizes: SizedByTensors) -> int:
    """Return how many tokens the file lists, or says there are, or has rows for; ours is the tokenizer all the same."""
    tokens = metadata.get(TOKENS_KEY)
    if isinstance(tokens, SkippedArray):
        return tokens.count
    if sizes.vocab_size is not None and not fields.has("vocab_size"):
        return sizes.vocab_size
    return fields.positive_int("vocab_size")


def _intermediate_size(fields: ConfigDocument, sizes: SizedByTensors) -> int:
    for key in ("expert_feed_forward_length", "feed_forward_length"):
        if fields.has(key):
            return fields.positive_int(key)
    if sizes.intermediate_size is not None:
        return sizes.intermediate_size
    return fields.positive_int("expert_feed_forward_length")
