"""GGUF as we write it: what the `gguf` package finds in it, and that nothing is lost on the way there and back."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader
from safetensors.torch import load_file

from model.checkpoint.gguf.layout import GGUF
from model.checkpoint.gguf.vocabulary import vocabulary_metadata
from model.checkpoint.gguf.write import DenseType, plan_gguf, write_gguf
from model.checkpoint.open import open_checkpoint
from model.checkpoint.random_weights import RandomWeights
from model.checkpoint.weights import HeadWeights, WeightSource
from model.checkpoint.write import write_checkpoint
from model.config import GPT_OSS_20B, GPT_OSS_120B
from model.digest import logit_digests
from model.errors import ConfigError
from model.tiny.asset import ensure_tiny_checkpoint
from model.vocabulary import VOCAB_SIZE
from tests.model.checkpoint.gguf_package import write_with_package
from tests.support.random_model import load_all, random_config
from tests.support.same_model import assert_same_model
from tests.support.steps import random_ids, run_in_chunks

CONFIG = random_config(num_layers=2, num_experts=3, experts_per_token=2, vocab_size=301)
SOURCE = RandomWeights(CONFIG, 5)
PUBLISHED_SHAPES = {
    "token_embd.weight": (201088, 2880),
    "output_norm.weight": (2880,),
    "output.weight": (201088, 2880),
    "blk.23.attn_norm.weight": (2880,),
    "blk.23.attn_q.weight": (4096, 2880),
    "blk.23.attn_k.bias": (512,),
    "blk.23.attn_v.weight": (512, 2880),
    "blk.23.attn_output.weight": (2880, 4096),
    "blk.23.attn_output.bias": (2880,),
    "blk.23.attn_sinks.weight": (64,),
    "blk.23.post_attention_norm.weight": (2880,),
    "blk.23.ffn_gate_inp.weight": (32, 2880),
    "blk.23.ffn_gate_inp.bias": (32,),
    "blk.23.ffn_gate_exps.weight": (32, 2880, 2880),
    "blk.23.ffn_up_exps.bias": (32, 2880),
    "blk.23.ffn_down_exps.weight": (32, 2880, 2880),
}


def test_names_and_shapes_are_those_of_published_files() -> None:
    """459 tensors in files of 20b, 687 in those of 120b, as llama.cpp counts them when it loads them."""
    for config, num_tensors in ((GPT_OSS_20B, 459), (GPT_OSS_120B, 687)):
        stored = {tensor.name: tensor for group in GGUF.layout(config).values() for tensor in group}
        assert len(stored) == num_tensors
        if config is GPT_OSS_20B:
            assert {name: stored[name].shape for name in PUBLISHED_SHAPES} == PUBLISHED_SHAPES


def test_a_file_of_20b_has_the_size_of_the_published_ones() -> None:
    """12,109.6 MB with 8-bit matrices and 13,792.6 MB with 16-bit ones, give or take a chat template."""
    assert abs(plan_gguf(GPT_OSS_20B, "q8_0").num_bytes - 12_109_566_560) < 50_000
    assert abs(plan_gguf(GPT_OSS_20B, "bf16").num_bytes - 13_792_638_784) < 50_000


@pytest.mark.parametrize(("dense", "kind"), [("bf16", "BF16"), ("q8_0", "Q8_0")])
def test_the_gguf_package_finds_what_its_own_writer_would_have_written(
    tmp_path: Path, dense: DenseType, kind: str
) -> None:
    """Names, shapes, types and bytes; the bytes of MXFP4 as values, which have more than one spelling."""
    write_gguf(tmp_path / "ours.gguf", SOURCE, dense)
    write_with_package(tmp_path / "theirs.gguf", SOURCE, GGMLQuantizationType[kind])
    ours = {tensor.name: tensor for tensor in GGUFReader(tmp_path / "ours.gguf").tensors}
    theirs = {tensor.name: tensor for tensor in GGUFReader(tmp_path / "theirs.gguf").tensors}
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].tensor_type == tensor.tensor_type, name
        assert ours[name].shape.tolist() == tensor.shape.tolist(), name
        if tensor.tensor_type == GGMLQuantizationType.MXFP4:
            found, expected = (gguf.dequantize(each.data, each.tensor_type) for each in (ours[name], tensor))
            assert np.array_equal(found, expected), name
        else:
            assert np.array_equal(ours[name].data, tensor.data), name


def test_the_gguf_package_finds_the_metadata_that_llama_cpp_asks_for(tmp_path: Path) -> None:
    reader = GGUFReader(write_gguf(tmp_path / "model.gguf", SOURCE))

    def value(key: str) -> Any:
        field = reader.get_field(key)
        assert field is not None, key
        return field.contents()

    expected = {
        "general.architecture": "gpt-oss",
        "gpt-oss.block_count": 2,
        "gpt-oss.expert_count": 3,
        "gpt-oss.expert_used_count": 2,
        "gpt-oss.expert_feed_forward_length": 96,
        "gpt-oss.attention.sliding_window": 128,
        "gpt-oss.rope.scaling.type": "yarn",
        "gpt-oss.rope.scaling.factor": 32.0,
        "gpt-oss.rope.scaling.original_context_length": 4096,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-4o",
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.padding_token_id": 0,
    }
    assert {key: value(key) for key in expected} == expected
    assert len(value("tokenizer.ggml.tokens")) == len(value("tokenizer.ggml.token_type")) == 301


def test_the_vocabulary_is_the_published_one() -> None:
    """446,189 merges, of which the first join blanks (spelled as GPT-2 does), as llama.cpp prints them at start."""
    metadata = vocabulary_metadata(VOCAB_SIZE)
    tokens, merges, types = (metadata[f"tokenizer.ggml.{key}"] for key in ("tokens", "merges", "token_type"))
    assert isinstance(tokens, list)
    assert isinstance(merges, list)
    assert isinstance(types, list)
    assert len(set(tokens)) == len(types) == VOCAB_SIZE
    assert len(merges) == 446_189
    assert merges[:3] == ["\u0120 \u0120", "\u0120 \u0120\u0120\u0120", "\u0120\u0120 \u0120\u0120"]
    assert tokens[0] == "!"
    assert tokens[220] == "\u0120"
    assert (tokens[200002], tokens[200012]) == ("<|return|>", "<|call|>")
    assert (types[199_997], types[199_998], types[-1]) == (1, 3, 3)


def test_a_model_comes_back_from_gguf_bit_for_bit(tmp_path: Path) -> None:
    """Safetensors to GGUF to safetensors: every tensor of the first file, MXFP4 blocks and scales too."""
    first = write_checkpoint(tmp_path / "first", SOURCE)
    file = write_gguf(tmp_path / "model.gguf", open_checkpoint(first))
    assert_same_model(open_checkpoint(file), SOURCE)
    second = write_checkpoint(tmp_path / "second", open_checkpoint(file))
    assert (second / "config.json").read_text() == (first / "config.json").read_text()
    tensors = load_file(second / "model.safetensors")
    for name, tensor in load_file(first / "model.safetensors").items():
        assert torch.equal(tensors[name], tensor), name
    again = write_gguf(tmp_path / "again.gguf", open_checkpoint(file))
    assert again.read_bytes() == file.read_bytes()


def test_norms_in_float32_stay_what_they_are(tmp_path: Path) -> None:
    class FineNorms(RandomWeights):
        def head(self) -> HeadWeights:
            return HeadWeights(torch.linspace(0.9, 1.1, CONFIG.hidden_size), super().head().unembedding)

    norm = open_checkpoint(write_gguf(tmp_path / "model.gguf", FineNorms(CONFIG, 5))).head().norm
    assert norm.dtype == torch.float32
    assert torch.equal(norm, torch.linspace(0.9, 1.1, CONFIG.hidden_size))


@torch.inference_mode()
def test_the_tiny_model_gives_the_same_logits_from_gguf(tmp_path: Path) -> None:
    """Every bit of every row, by digest, over a prompt beyond the sliding window."""
    packed = open_checkpoint(ensure_tiny_checkpoint(tmp_path))
    converted = open_checkpoint(write_gguf(tmp_path / "tiny.gguf", packed))
    assert converted.config == packed.config

    def digests(source: WeightSource) -> tuple[str, ...]:
        ids = random_ids(160, VOCAB_SIZE)
        return logit_digests(run_in_chunks(*load_all(source, "precise"), ids, [150, 10]))

    expected = digests(packed)
    assert len(set(expected)) == 160
    assert digests(converted) == expected


def test_what_gguf_cannot_say_is_refused(tmp_path: Path) -> None:
    for field, changes in {
        "layer_types": {"layer_types": ("full",) * 2, "num_layers": 2},
        "rope_truncate": {"rope_truncate": True},
        "swiglu_limit": {"swiglu_limit": 6.0},
        "rope_theta": {"rope_theta": 150000.00001},
    }.items():
        with pytest.raises(ConfigError, match=f"{field} = .*cannot be said in GGUF"):
            write_gguf(tmp_path / "model.gguf", RandomWeights(random_config(**changes), 1))
    assert list(tmp_path.iterdir()) == []


def test_writing_leaves_nothing_or_all_of_it(tmp_path: Path) -> None:
    class FailingSource(RandomWeights):
        def head(self) -> HeadWeights:
            raise RuntimeError("out of weights")

    file = tmp_path / "model.gguf"
    with pytest.raises(RuntimeError, match="out of weights"):
        write_gguf(file, FailingSource(CONFIG, 1))
    assert list(tmp_path.iterdir()) == []
    told: list[int] = []
    write_gguf(file, SOURCE, on_bytes=told.append)
    before = file.read_bytes()
    assert sum(told) == sum(tensor.num_bytes for tensor in plan_gguf(CONFIG).tensors)
    assert len(before) == plan_gguf(CONFIG).num_bytes
    with pytest.raises(FileExistsError, match="exists"):
        write_gguf(file, RandomWeights(CONFIG, 6))
    with pytest.raises(RuntimeError, match="out of weights"):
        write_gguf(file, FailingSource(CONFIG, 1), replace=True)
    assert file.read_bytes() == before
    write_gguf(file, RandomWeights(CONFIG, 6), replace=True)
    assert_same_model(open_checkpoint(file), RandomWeights(CONFIG, 6))
    assert list(tmp_path.iterdir()) == [file]
