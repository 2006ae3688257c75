"""The model against transformers' GptOssForCausalLM in float32, through checkpoint files of both layouts.

transformers' softmax, norms and sums run in other orders, so logits agree within a tolerance; the argmax agrees
everywhere. Prompts of more than 4,096 tokens reach positions where YaRN's wavelengths matter.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GptOssForCausalLM
from transformers.cache_utils import DynamicCache

from model.checkpoint.layout import FormatName
from model.checkpoint.open import open_checkpoint
from model.checkpoint.write import write_random_checkpoint
from model.config import ModelConfig
from tests.support.random_model import load_all, random_config
from tests.support.steps import random_ids, run_in_chunks

MAX_LOGIT_ERROR = 1e-4

SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {},
    "two_of_five": {"num_experts": 5, "experts_per_token": 2, "num_heads": 6, "head_dim": 16, "sliding_window": 7},
    "three_layers_wide_heads": {"num_layers": 3, "num_heads": 14, "head_dim": 64, "hidden_size": 96},
    "one_kv_head": {"num_layers": 2, "num_heads": 8, "num_kv_heads": 1, "head_dim": 16, "sliding_window": 64},
    "no_groups_many_experts": {"num_heads": 4, "num_kv_heads": 4, "num_experts": 33, "hidden_size": 32},
    "broad_experts": {"num_layers": 5, "intermediate_size": 160, "num_experts": 4, "sliding_window": 130},
    "one_expert_a_token": {"num_layers": 2, "experts_per_token": 1, "num_experts": 3, "vocab_size": 517},
}
PROMPT_LENGTHS = (1, 127, 128, 129, 300)


@pytest.fixture(scope="module", params=[(name, layout) for name in SHAPES for layout in ("packed", "bf16")], ids=str)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """Return our model (transformer and experts) and transformers', both read from the same files."""
    name, layout = request.param
    path = tmp_path_factory.mktemp(f"{name}-{layout}") / "checkpoint"
    write(path, random_config(**SHAPES[name]), layout)
    return load_all(open_checkpoint(path)), load_reference(path)


def write(path: Path, config: ModelConfig, layout: FormatName) -> None:
    """Write a random checkpoint whose seed follows from its dimensions."""
    write_random_checkpoint(path, config, config.num_layers * 1000 + config.num_experts, layout)


def load_reference(path: Path) -> Any:
    """Return transformers' GptOssForCausalLM in float32 with its plain attention and plain experts."""
    from transformers.utils.quantization_config import Mxfp4Config

    packed: dict[str, Any] = {"quantization_config": Mxfp4Config(dequantize=True)} if is_packed(path) else {}
    model: Any = GptOssForCausalLM.from_pretrained(
        path,
        dtype=torch.float32,
        attn_implementation="eager",
        experts_implementation="eager",
        local_files_only=True,
        **packed,
    )
    return model.float().eval()


def is_packed(path: Path) -> bool:
    """Say whether config.json announces MXFP4 experts."""
    return "mxfp4" in (path / "config.json").read_text(encoding="utf-8")


def assert_parity(ours: Tensor, reference: Tensor) -> None:
    """Assert the tolerance on every logit and equality of every argmax."""
    assert ours.shape == reference.shape
    assert (ours - reference).abs().max().item() <= MAX_LOGIT_ERROR
    assert torch.equal(ours.argmax(-1), reference.argmax(-1))


@torch.inference_mode()
@pytest.mark.parametrize("length", PROMPT_LENGTHS)
def test_prefill_matches_transformers(pair: tuple[Any, Any], length: int) -> None:
    (transformer, experts), reference = pair
    ids = random_ids(length, transformer.config.vocab_size, seed=length)
    assert_parity(run_in_chunks(transformer, experts, ids, [length]), reference(torch.tensor([ids])).logits[0])


@torch.inference_mode()
def test_token_by_token_decode_matches_transformers_cached_decode(pair: tuple[Any, Any]) -> None:
    """Both decode past the sliding window's edge, each with its own cache."""
    (transformer, experts), reference = pair
    prompt, decoded = 120, 20
    ids = random_ids(prompt + decoded, transformer.config.vocab_size)
    ours = run_in_chunks(transformer, experts, ids, [prompt, *[1] * decoded])
    cache = DynamicCache(config=reference.config)
    steps = [ids[:prompt], *([token] for token in ids[prompt:])]
    theirs = [reference(torch.tensor([step]), past_key_values=cache, use_cache=True).logits[0] for step in steps]
    assert_parity(ours, torch.cat(theirs))


@pytest.fixture(scope="module")
def long_logits() -> dict[ModelConfig, Tensor]:
    """Transformers' logits of the long prompt by model: both layouts hold the same weights, and it is slow."""
    return {}


@torch.inference_mode()
def test_prompts_beyond_the_original_context_match(
    pair: tuple[Any, Any], long_logits: dict[ModelConfig, Tensor]
) -> None:
    """4,100 tokens: YaRN was stretched from 4,096."""
    (transformer, experts), reference = pair
    config = transformer.config
    ids = random_ids(4100, config.vocab_size)
    if config not in long_logits:
        long_logits[config] = reference(torch.tensor([ids])).logits[0]
    assert_parity(run_in_chunks(transformer, experts, ids, [1000, 3097, 1, 1, 1]), long_logits[config])


def test_the_original_layout_gives_the_same_bits(tmp_path: Path) -> None:
    ids = random_ids(40, 211)
    logits: list[Tensor] = []
    for layout in ("packed", "original"):
        write(tmp_path / layout, random_config(max_positions=131072), layout)
        logits.append(run_in_chunks(*load_all(open_checkpoint(tmp_path / layout)), ids, [40]))
    assert torch.equal(logits[0], logits[1])
