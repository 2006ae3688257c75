"""ModelConfig: the published documents, their sizes, and every way a document can be wrong."""

import json
import pickle
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from transformers import GptOssConfig

from model.config import GPT_OSS_20B, GPT_OSS_120B, ModelConfig
from model.errors import ConfigError
from tests.support.random_model import random_config

DATA = Path(__file__).parent / "data"
GENERATION = json.loads((DATA / "generation_config.json").read_text())
PRESETS = {"20b": GPT_OSS_20B, "120b": GPT_OSS_120B}

ORIGINAL_20B: dict[str, Any] = {
    "num_hidden_layers": 24,
    "num_experts": 32,
    "experts_per_token": 4,
    "vocab_size": 201088,
    "hidden_size": 2880,
    "intermediate_size": 2880,
    "swiglu_limit": 7.0,
    "head_dim": 64,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "sliding_window": 128,
    "initial_context_length": 4096,
    "rope_theta": 150000,
    "rope_scaling_factor": 32.0,
    "rope_ntk_alpha": 1,
    "rope_ntk_beta": 32,
}


def published(size: str) -> dict[str, Any]:
    return json.loads((DATA / f"config-gpt-oss-{size}.json").read_text())


@pytest.mark.parametrize("size", ["20b", "120b"])
def test_published_documents_give_the_presets(size: str) -> None:
    assert ModelConfig.from_json(published(size), GENERATION) == PRESETS[size]


def test_presets_are_what_the_models_are() -> None:
    shared = asdict(GPT_OSS_120B) | {"num_layers": 24, "num_experts": 32, "layer_types": ("sliding", "full") * 12}
    assert asdict(GPT_OSS_20B) == shared
    assert (GPT_OSS_120B.num_layers, GPT_OSS_120B.num_experts) == (36, 128)
    assert GPT_OSS_20B.eos_token_ids == (200002, 199999, 200012)
    assert GPT_OSS_20B.rope_truncate is False
    assert GPT_OSS_20B.swiglu_alpha == 1.702


def test_original_document_gives_the_same_model() -> None:
    assert ModelConfig.from_json(ORIGINAL_20B, GENERATION) == GPT_OSS_20B


def test_transformers_renaming_of_rope_gives_the_same_model() -> None:
    """Transformers 5 writes `rope_parameters` with rope_theta inside, and neither `rope_scaling` nor `rope_theta`."""
    renamed = json.loads(GptOssConfig(**published("20b")).to_json_string())
    assert "rope_scaling" not in renamed
    assert ModelConfig.from_json(renamed, GENERATION) == GPT_OSS_20B


@pytest.mark.parametrize("size", ["20b", "120b"])
def test_written_document_says_what_the_published_one_says(size: str) -> None:
    unused = {
        "attention_dropout",
        "initializer_range",
        "output_router_logits",
        "router_aux_loss_coef",
        "transformers_version",
        "use_cache",
    }
    expected = {key: value for key, value in published(size).items() if key not in unused}
    expected |= {"eos_token_id": [200002, 199999, 200012], "swiglu_alpha": 1.702}
    assert PRESETS[size].to_json() == expected


def test_documents_survive_a_round_trip() -> None:
    config = random_config(rope_truncate=True, eos_token_ids=(), pad_token_id=None, swiglu_alpha=1.5, norm_eps=1e-6)
    for packed in (True, False):
        document = json.loads(json.dumps(config.to_json(packed)))
        assert ("quantization_config" in document) is packed
        assert ModelConfig.from_json(document) == config


def test_generation_document_wins_over_a_single_stop_id() -> None:
    document = published("20b")
    assert ModelConfig.from_json(document).eos_token_ids == (200002,)
    assert ModelConfig.from_json(document, GENERATION).eos_token_ids == (200002, 199999, 200012)
    del document["eos_token_id"]
    assert ModelConfig.from_json(document).eos_token_ids == (200002, 199999, 200012)
    assert ModelConfig.from_json(document | {"vocab_size": 200_000}).eos_token_ids == (199999,)


def test_published_models_have_exactly_these_sizes() -> None:
    """GPT_OSS_20B: 13,761,264,768 bytes is the `total_size` of the published index."""
    assert GPT_OSS_20B.checkpoint_bytes() == 13_761_264_768
    assert GPT_OSS_120B.checkpoint_bytes() == 65_248_815_744
    assert GPT_OSS_20B.num_parameters() == 20_914_757_184
    assert GPT_OSS_120B.num_parameters() == 116_829_156_672
    assert GPT_OSS_20B.expert_bytes() == 13_236_480
    assert GPT_OSS_20B.expert_bytes(packed=False) == 49_783_680


@pytest.mark.parametrize(
    ("size", "attention", "gate", "norms", "blocks_and_scales", "biases"),
    [
        ("20b", 1_274_406_912, 4_425_216, 282_240, 9_555_148_800 + 597_196_800, 13_271_040),
        ("120b", 1_911_610_368, 26_551_296, 420_480, 57_330_892_800 + 3_583_180_800, 79_626_240),
    ],
)
def test_parts_have_their_published_sizes(
    size: str, attention: int, gate: int, norms: int, blocks_and_scales: int, biases: int
) -> None:
    parts = PRESETS[size].bytes_by_part()
    assert (parts.embedding, parts.unembedding) == (1_158_266_880, 1_158_266_880)
    assert (parts.attention, parts.gate, parts.norms) == (attention, gate, norms)
    assert (parts.expert_weights, parts.expert_biases) == (blocks_and_scales, biases)
    assert parts.dense + parts.experts == parts.total == PRESETS[size].checkpoint_bytes()


def test_keys_and_values_take_their_published_bytes() -> None:
    assert GPT_OSS_20B.kv_bytes_per_token(element_bytes=2) == 49_152
    assert GPT_OSS_20B.kv_bytes_per_token(2, "full") == 24_576
    assert GPT_OSS_120B.kv_bytes_per_token(2) == 73_728
    assert GPT_OSS_120B.kv_bytes_per_token(4, "sliding") == 73_728


REQUIRED = [
    "head_dim",
    "hidden_size",
    "intermediate_size",
    "layer_types",
    "max_position_embeddings",
    "model_type",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "num_local_experts",
    "rms_norm_eps",
    "rope_scaling",
    "rope_theta",
    "sliding_window",
    "swiglu_limit",
    "vocab_size",
]


@pytest.mark.parametrize("field", REQUIRED)
@pytest.mark.parametrize("value", ["absent", None])
def test_missing_field_is_named(field: str, value: object) -> None:
    document = published("20b") | {field: None}
    if value == "absent":
        del document[field]
    with pytest.raises(ConfigError, match="is missing") as caught:
        ModelConfig.from_json(document)
    assert caught.value.field == field
    assert str(caught.value) == f"{field}: is missing"


@pytest.mark.parametrize("field", sorted(ORIGINAL_20B))
def test_missing_field_of_the_original_document_is_named(field: str) -> None:
    document = {key: value for key, value in ORIGINAL_20B.items() if key != field}
    with pytest.raises(ConfigError, match="is missing") as caught:
        ModelConfig.from_json(document)
    assert caught.value.field == ("model_type" if field == "rope_scaling_factor" else field)


ROPE = published("20b")["rope_scaling"]
WRONG: list[tuple[dict[str, object], str, object]] = [
    ({"hidden_size": 2881}, "hidden_size", 2881),
    ({"hidden_size": "2880"}, "hidden_size", "2880"),
    ({"hidden_size": 2880.0}, "hidden_size", 2880.0),
    ({"hidden_size": True}, "hidden_size", True),
    ({"hidden_size": -32}, "hidden_size", -32),
    ({"hidden_size": 2**31}, "hidden_size", 2**31),
    ({"intermediate_size": 48}, "intermediate_size", 48),
    ({"num_hidden_layers": 23}, "layer_types", 24),
    ({"num_hidden_layers": 10**9}, "num_hidden_layers", 10**9),
    ({"layer_types": "sliding_attention"}, "layer_types", "sliding_attention"),
    ({"layer_types": ["chunked_attention"] * 24}, "layer_types", ["chunked_attention"] * 24),
    ({"layer_types": [["sliding_attention"]] * 24}, "layer_types", [["sliding_attention"]] * 24),
    ({"num_attention_heads": 63}, "num_attention_heads", 63),
    ({"num_key_value_heads": 7}, "num_attention_heads", 64),
    ({"head_dim": 63}, "head_dim", 63),
    ({"num_experts_per_tok": 33, "experts_per_token": 33}, "num_experts_per_tok", 33),
    ({"num_experts_per_tok": 2}, "experts_per_token", 4),
    ({"model_type": "llama"}, "model_type", "llama"),
    ({"model_type": ["gpt_oss"]}, "model_type", ["gpt_oss"]),
    ({"hidden_act": "gelu"}, "hidden_act", "gelu"),
    ({"attention_bias": False}, "attention_bias", False),
    ({"tie_word_embeddings": True}, "tie_word_embeddings", True),
    ({"quantization_config": {"quant_method": "fp8"}}, "quantization_config.quant_method", "fp8"),
    ({"quantization_config": "mxfp4"}, "quantization_config", "mxfp4"),
    ({"rms_norm_eps": 0}, "rms_norm_eps", 0),
    ({"swiglu_limit": float("inf")}, "swiglu_limit", float("inf")),
    ({"rope_theta": 1}, "rope_theta", 1.0),
    ({"rope_scaling": ROPE | {"rope_type": "llama3"}}, "rope_scaling.rope_type", "llama3"),
    ({"rope_scaling": ROPE | {"rope_type": None}}, "rope_scaling.rope_type", None),
    ({"rope_scaling": ROPE | {"factor": None}}, "rope_scaling.factor", None),
    ({"rope_scaling": ROPE | {"factor": 0.5}}, "factor", 0.5),
    ({"rope_scaling": ROPE | {"truncate": "no"}}, "rope_scaling.truncate", "no"),
    ({"rope_scaling": ROPE | {"beta_slow": 64}}, "beta_slow", 64.0),
    ({"rope_scaling": ROPE | {"attention_factor": 1.5}}, "rope_scaling.attention_factor", 1.5),
    ({"rope_scaling": ROPE | {"mscale": 0.7}}, "rope_scaling.mscale", 0.7),
    ({"rope_parameters": [1]}, "rope_parameters", [1]),
    ({"eos_token_id": 201088}, "eos_token_id", 201088),
    ({"eos_token_id": [200002, -1]}, "eos_token_id", [200002, -1]),
    ({"pad_token_id": "<pad>"}, "pad_token_id", "<pad>"),
]


@pytest.mark.parametrize(("changes", "field", "value"), WRONG)
def test_wrong_field_is_named_with_its_value(changes: dict[str, object], field: str, value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        ModelConfig.from_json(published("20b") | changes)
    assert (caught.value.field, caught.value.value) == (field, value)
    assert field in str(caught.value)


def test_yarn_bounds_are_rounded_unless_the_document_says_no() -> None:
    """`truncate` is true by default in transformers; only gpt-oss's own documents say false."""
    rope = {key: value for key, value in ROPE.items() if key != "truncate"}
    assert ModelConfig.from_json(published("20b") | {"rope_scaling": rope}).rope_truncate is True


def test_errors_survive_pickling() -> None:
    error = pickle.loads(pickle.dumps(ConfigError("hidden_size", 31, "not a multiple of 32")))
    assert str(error) == "hidden_size = 31: not a multiple of 32"
    assert error.field == "hidden_size"
