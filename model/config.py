"""ModelConfig: the dimensions and constants of one gpt-oss model, checked once; its sizes; the published presets.

How a config.json says them is `config_json`'s business.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from model import sizes
from model.errors import ConfigError
from model.mxfp4 import BLOCK_VALUES

LayerType: TypeAlias = Literal["sliding", "full"]

SWIGLU_ALPHA = 1.702
"""The sigmoid's gain; a constant of the reference code, absent from the published config.json."""
NORM_EPS = 1e-5
HARMONY_EOS_TOKEN_IDS = (200002, 199999, 200012)
"""<|return|>, <|endoftext|>, <|call|>: what the published generation_config.json stops on."""
HARMONY_PAD_TOKEN_ID = 199999
MAX_POSITIONS = 2**31 - 1


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The dimensions and constants of one gpt-oss model. Any inconsistent set of values is a ConfigError."""

    num_layers: int
    num_experts: int
    experts_per_token: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    sliding_window: int
    """Keys that a row of a sliding layer sees, its own included."""
    layer_types: tuple[LayerType, ...]
    max_positions: int
    rope_theta: float
    rope_factor: float
    rope_beta_fast: float
    rope_beta_slow: float
    rope_original_positions: int
    rope_truncate: bool
    """Whether YaRN's bounds are rounded to whole dimensions; false in the published models."""
    norm_eps: float
    swiglu_limit: float
    eos_token_ids: tuple[int, ...]
    pad_token_id: int | None
    swiglu_alpha: float = SWIGLU_ALPHA

    def __post_init__(self) -> None:
        _check(self)

    @classmethod
    def from_json(cls, document: Mapping[str, object], generation: Mapping[str, object] | None = None) -> "ModelConfig":
        """Return the configuration of a config.json; raises ConfigError naming field and value.

        `generation` is generation_config.json: it wins, because only its `eos_token_id` is the complete list. Without
        any, the harmony format's stop ids hold, as far as they lie in the vocabulary.
        """
        from model.config_json import read_config  # which builds ModelConfigs, and so needs this file first

        return read_config(document, generation or {})

    def to_json(self, packed: bool = True) -> dict[str, object]:
        """Return the Hugging Face config.json of this model, its experts as MXFP4 if `packed`."""
        from model.config_json import write_config

        return write_config(self, packed)

    @property
    def qkv_size(self) -> int:
        """Return the rows of the fused query, key and value projection, (Q+2G)*D."""
        return (self.num_heads + 2 * self.num_kv_heads) * self.head_dim

    def num_parameters(self) -> int:
        """Return the number of parameters."""
        return self.parameters_by_part().total

    def parameters_by_part(self) -> sizes.PartSizes:
        """Return the parameters of each part."""
        return sizes.part_parameters(self)

    def checkpoint_bytes(self, packed: bool = True) -> int:
        """Return the bytes of all tensors in a checkpoint with MXFP4 experts, or bf16 ones if not `packed`."""
        return self.bytes_by_part(packed).total

    def bytes_by_part(self, packed: bool = True) -> sizes.PartSizes:
        """Return the bytes of each part in such a checkpoint."""
        return sizes.part_bytes(self, packed)

    def expert_bytes(self, packed: bool = True) -> int:
        """Return the bytes of one expert of one layer, weights and biases."""
        return sizes.expert_bytes(self, packed)

    def kv_bytes_per_token(self, element_bytes: int, layer_type: LayerType | None = None) -> int:
        """Return the bytes of one token's keys and values in all layers, or in those of `layer_type`."""
        num_layers = self.num_layers if layer_type is None else self.layer_types.count(layer_type)
        return 2 * self.num_kv_heads * self.head_dim * element_bytes * num_layers


def alternating_layer_types(num_layers: int) -> tuple[LayerType, ...]:
    """Return sliding, full, sliding, ...: the order of every published model."""
    return tuple("full" if layer % 2 else "sliding" for layer in range(num_layers))


def _check(config: ModelConfig) -> None:
    """Raise ConfigError for values that do not go together, under the field names of config.json."""

    def require(is_met: bool, field: str, value: object, problem: str) -> None:
        if not is_met:
            raise ConfigError(field, value, problem)

    num_types, layers = len(config.layer_types), config.num_layers
    require(num_types == layers, "layer_types", num_types, f"entries, but num_hidden_layers is {layers}")
    heads, kv_heads = config.num_heads, config.num_kv_heads
    require(heads % kv_heads == 0, "num_attention_heads", heads, f"not a multiple of num_key_value_heads {kv_heads}")
    require(config.head_dim % 2 == 0, "head_dim", config.head_dim, "must be even for the rotary embedding")
    for field, size in (("hidden_size", config.hidden_size), ("intermediate_size", config.intermediate_size)):
        require(size % BLOCK_VALUES == 0, field, size, f"not a multiple of {BLOCK_VALUES}, the MXFP4 block")
    chosen, experts = config.experts_per_token, config.num_experts
    require(chosen <= experts, "num_experts_per_tok", chosen, f"more than the {experts} experts (num_local_experts)")
    require(config.rope_factor >= 1, "factor", config.rope_factor, "must be at least 1")
    require(config.rope_theta > 1, "rope_theta", config.rope_theta, "must be above 1")
    require(
        config.max_positions <= MAX_POSITIONS, "max_position_embeddings", config.max_positions, f"above {MAX_POSITIONS}"
    )
    slow, fast = config.rope_beta_slow, config.rope_beta_fast
    require(slow < fast, "beta_slow", slow, f"must be below beta_fast {fast}")
    for token_id in config.eos_token_ids:
        is_token = token_id < config.vocab_size
        require(is_token, "eos_token_id", token_id, f"outside the vocabulary of {config.vocab_size}")


def _published(num_layers: int, num_experts: int) -> ModelConfig:
    return ModelConfig(
        num_layers=num_layers,
        num_experts=num_experts,
        experts_per_token=4,
        hidden_size=2880,
        intermediate_size=2880,
        num_heads=64,
        num_kv_heads=8,
        head_dim=64,
        vocab_size=201088,
        sliding_window=128,
        layer_types=alternating_layer_types(num_layers),
        max_positions=131072,
        rope_theta=150000.0,
        rope_factor=32.0,
        rope_beta_fast=32.0,
        rope_beta_slow=1.0,
        rope_original_positions=4096,
        rope_truncate=False,
        norm_eps=NORM_EPS,
        swiglu_limit=7.0,
        eos_token_ids=HARMONY_EOS_TOKEN_IDS,
        pad_token_id=HARMONY_PAD_TOKEN_ID,
    )


GPT_OSS_20B = _published(num_layers=24, num_experts=32)
GPT_OSS_120B = _published(num_layers=36, num_experts=128)
