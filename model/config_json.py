"""How a config.json says a ModelConfig: Hugging Face's document, read and written, and the reference code's, read.

Hugging Face's holds `rope_scaling` + `rope_theta` as published, or `rope_parameters` as transformers 5 saves it; both
are read. The one of the `original/` folder lacks what the reference implementation has as constants.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import fields as dataclass_fields

from model.config import (
    HARMONY_EOS_TOKEN_IDS,
    NORM_EPS,
    SWIGLU_ALPHA,
    LayerType,
    ModelConfig,
    alternating_layer_types,
)
from model.config_document import ConfigDocument
from model.errors import ConfigError

MAX_LAYERS = 4096

_ONLY_IN_GENERATION_CONFIG = {"eos_token_ids", "pad_token_id"}
_LAYER_TYPES: dict[str, LayerType] = {"sliding_attention": "sliding", "full_attention": "full"}


@dataclass(frozen=True, slots=True)
class _SpecialTokens:
    """What the documents say of stopping and padding; None where they say nothing."""

    eos_token_ids: tuple[int, ...] | None
    pad_token_ids: tuple[int, ...] | None

    @classmethod
    def of(cls, fields: ConfigDocument, generation: ConfigDocument) -> "_SpecialTokens":
        """Return what `generation` says, and where it is silent, what `fields` says."""

        def first(field: str) -> tuple[int, ...] | None:
            ids = generation.token_ids(field)
            return fields.token_ids(field) if ids is None else ids

        return cls(first("eos_token_id"), first("pad_token_id"))

    def eos_within(self, vocab_size: int) -> tuple[int, ...]:
        """Return the stop ids, or the harmony format's as far as they lie in the vocabulary."""
        if self.eos_token_ids is not None:
            return self.eos_token_ids
        return tuple(token_id for token_id in HARMONY_EOS_TOKEN_IDS if token_id < vocab_size)

    @property
    def pad(self) -> int | None:
        """Return the padding id, if there is one."""
        return self.pad_token_ids[0] if self.pad_token_ids else None


def read_config(document: Mapping[str, object], generation: Mapping[str, object]) -> ModelConfig:
    """Return the configuration of a config.json and a generation_config.json, which may be empty."""
    fields = ConfigDocument(document)
    special = _SpecialTokens.of(fields, ConfigDocument(generation))
    if fields.has("model_type"):
        return _from_hugging_face(fields, special)
    if fields.has("rope_scaling_factor"):
        return _from_original(fields, special)
    raise fields.error("model_type", "is missing")


def write_config(config: ModelConfig, packed: bool) -> dict[str, object]:
    """Return the Hugging Face config.json of `config`, its experts as MXFP4 if `packed`."""
    document: dict[str, object] = {
        "architectures": ["GptOssForCausalLM"],
        "attention_bias": True,
        "eos_token_id": list(config.eos_token_ids),
        "experts_per_token": config.experts_per_token,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "hidden_size": config.hidden_size,
        "initial_context_length": config.rope_original_positions,
        "intermediate_size": config.intermediate_size,
        "layer_types": [f"{layer_type}_attention" for layer_type in config.layer_types],
        "max_position_embeddings": config.max_positions,
        "model_type": "gpt_oss",
        "num_attention_heads": config.num_heads,
        "num_experts_per_tok": config.experts_per_token,
        "num_hidden_layers": config.num_layers,
        "num_key_value_heads": config.num_kv_heads,
        "num_local_experts": config.num_experts,
        "pad_token_id": config.pad_token_id,
        "rms_norm_eps": config.norm_eps,
        "rope_scaling": {
            "beta_fast": config.rope_beta_fast,
            "beta_slow": config.rope_beta_slow,
            "factor": config.rope_factor,
            "original_max_position_embeddings": config.rope_original_positions,
            "rope_type": "yarn",
            "truncate": config.rope_truncate,
        },
        "rope_theta": config.rope_theta,
        "sliding_window": config.sliding_window,
        "swiglu_alpha": config.swiglu_alpha,
        "swiglu_limit": config.swiglu_limit,
        "tie_word_embeddings": False,
        "vocab_size": config.vocab_size,
    }
    if packed:
        untouched = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]
        document["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": untouched}
    return document


def write_original_config(config: ModelConfig) -> dict[str, object]:
    """Return the config.json of the `original/` folder; raises ConfigError for what that document cannot say."""
    document: dict[str, object] = {
        "num_hidden_layers": config.num_layers,
        "num_experts": config.num_experts,
        "experts_per_token": config.experts_per_token,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "swiglu_limit": config.swiglu_limit,
        "head_dim": config.head_dim,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "sliding_window": config.sliding_window,
        "initial_context_length": config.rope_original_positions,
        "rope_theta": config.rope_theta,
        "rope_scaling_factor": config.rope_factor,
        "rope_ntk_alpha": config.rope_beta_slow,
        "rope_ntk_beta": config.rope_beta_fast,
    }
    read_back = read_config(document, {})
    for field in dataclass_fields(ModelConfig):
        value = getattr(config, field.name)
        if field.name not in _ONLY_IN_GENERATION_CONFIG and getattr(read_back, field.name) != value:
            raise ConfigError(field.name, value, "cannot be said in the original/ layout")
    return document


def _from_hugging_face(fields: ConfigDocument, special: _SpecialTokens) -> ModelConfig:
    _refuse_what_we_do_not_compute(fields)
    rope = fields.section("rope_parameters" if fields.has("rope_parameters") else "rope_scaling")
    if not rope.has("rope_type"):
        raise rope.error("rope_type", "is missing")
    rope.expect("rope_type", "yarn")
    rope.expect("partial_rotary_factor", 1.0)
    for field in ("attention_factor", "mscale", "mscale_all_dim"):
        rope.expect(field)
    vocab_size = fields.positive_int("vocab_size")
    return ModelConfig(
        num_layers=fields.positive_int("num_hidden_layers", MAX_LAYERS),
        num_experts=fields.positive_int("num_local_experts"),
        experts_per_token=_experts_per_token(fields),
        hidden_size=fields.positive_int("hidden_size"),
        intermediate_size=fields.positive_int("intermediate_size"),
        num_heads=fields.positive_int("num_attention_heads"),
        num_kv_heads=fields.positive_int("num_key_value_heads"),
        head_dim=fields.positive_int("head_dim"),
        vocab_size=vocab_size,
        sliding_window=fields.positive_int("sliding_window"),
        layer_types=_layer_types(fields),
        max_positions=fields.positive_int("max_position_embeddings"),
        rope_theta=(rope if rope.has("rope_theta") else fields).positive_float("rope_theta"),
        rope_factor=rope.positive_float("factor"),
        rope_beta_fast=rope.positive_float("beta_fast", default=32.0),
        rope_beta_slow=rope.positive_float("beta_slow", default=1.0),
        rope_original_positions=rope.positive_int("original_max_position_embeddings"),
        rope_truncate=rope.flag("truncate", default=True),
        norm_eps=fields.positive_float("rms_norm_eps"),
        swiglu_limit=fields.positive_float("swiglu_limit"),
        swiglu_alpha=fields.positive_float("swiglu_alpha", default=SWIGLU_ALPHA),
        eos_token_ids=special.eos_within(vocab_size),
        pad_token_id=special.pad,
    )


def _refuse_what_we_do_not_compute(fields: ConfigDocument) -> None:
    fields.expect("model_type", "gpt_oss")
    fields.expect("hidden_act", "silu")
    fields.expect("attention_bias", True)
    fields.expect("tie_word_embeddings", False)
    if fields.has("quantization_config"):
        fields.section("quantization_config").expect("quant_method", "mxfp4")


def _experts_per_token(fields: ConfigDocument) -> int:
    """Return the count that the published file gives under two names, which must agree."""
    value = fields.positive_int("num_experts_per_tok" if fields.has("num_experts_per_tok") else "experts_per_token")
    fields.expect("experts_per_token", value)
    return value


def _layer_types(fields: ConfigDocument) -> tuple[LayerType, ...]:
    layer_types: list[LayerType] = []
    for name in fields.sequence("layer_types"):
        if not isinstance(name, str) or name not in _LAYER_TYPES:
            raise fields.error("layer_types", f"{name!r} is neither {' nor '.join(map(repr, _LAYER_TYPES))}")
        layer_types.append(_LAYER_TYPES[name])
    return tuple(layer_types)


def _from_original(fields: ConfigDocument, special: _SpecialTokens) -> ModelConfig:
    """Read the keys of the reference implementation, whose code holds the constants that are absent here."""
    num_layers = fields.positive_int("num_hidden_layers", MAX_LAYERS)
    original_positions = fields.positive_int("initial_context_length")
    rope_factor = fields.positive_float("rope_scaling_factor")
    vocab_size = fields.positive_int("vocab_size")
    return ModelConfig(
        num_layers=num_layers,
        num_experts=fields.positive_int("num_experts"),
        experts_per_token=fields.positive_int("experts_per_token"),
        hidden_size=fields.positive_int("hidden_size"),
        intermediate_size=fields.positive_int("intermediate_size"),
        num_heads=fields.positive_int("num_attention_heads"),
        num_kv_heads=fields.positive_int("num_key_value_heads"),
        head_dim=fields.positive_int("head_dim"),
        vocab_size=vocab_size,
        sliding_window=fields.positive_int("sliding_window"),
        layer_types=alternating_layer_types(num_layers),
        max_positions=int(original_positions * rope_factor),
        rope_theta=fields.positive_float("rope_theta"),
        rope_factor=rope_factor,
        rope_beta_fast=fields.positive_float("rope_ntk_beta"),
        rope_beta_slow=fields.positive_float("rope_ntk_alpha"),
        rope_original_positions=original_positions,
        rope_truncate=False,
        norm_eps=NORM_EPS,
        swiglu_limit=fields.positive_float("swiglu_limit"),
        eos_token_ids=special.eos_within(vocab_size),
        pad_token_id=special.pad,
    )
