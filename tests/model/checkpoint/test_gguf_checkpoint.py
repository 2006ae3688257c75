"""GGUF read as a checkpoint: what llama.cpp's tools write, what Ollama wrote, and what we write ourselves."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import gguf
import pytest
import torch
from gguf import GGMLQuantizationType

from cluster.model_source import open_model
from model.checkpoint.gguf.block_types import BF16, F32, MXFP4, OLLAMA_MXFP4, BlockType
from model.checkpoint.gguf.blocks import encode, pack_mxfp4
from model.checkpoint.gguf.write import plan_gguf, write_gguf
from model.checkpoint.gguf.writer import GgufPlan, GgufWriter
from model.checkpoint.inspect import inspect_checkpoint
from model.checkpoint.open import open_checkpoint
from model.checkpoint.random_weights import RandomWeights
from model.checkpoint.weights import AttentionWeights
from model.checkpoint.write import write_random_checkpoint
from model.config import GPT_OSS_20B, ModelConfig
from model.errors import CheckpointDamaged, CheckpointMismatch, CheckpointMissing
from model.mxfp4 import Mxfp4Tensor
from tests.model.checkpoint.gguf_package import write_with_package
from tests.support.random_model import random_config
from tests.support.same_model import assert_same_model, dense, tensors_of

CONFIG = random_config(num_layers=2, num_experts=3, experts_per_token=2, vocab_size=101, eos_token_ids=())
SOURCE = RandomWeights(CONFIG, 7)
BARE = RandomWeights(replace(CONFIG, pad_token_id=None), 7)
"""The package's writer is told no padding token."""


@pytest.fixture(scope="module")
def packaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("package") / "model.gguf"
    write_with_package(file, BARE)
    return file


def test_what_the_gguf_package_writes_is_the_model_it_was_given(packaged: Path) -> None:
    checkpoint = open_checkpoint(packaged)
    assert checkpoint.format.name == "gguf"
    assert checkpoint.format.are_experts_packed
    assert isinstance(checkpoint.expert(1, 2).mlp1, Mxfp4Tensor)
    assert_same_model(checkpoint, BARE)


@pytest.mark.parametrize("matrices", [GGMLQuantizationType.F32, GGMLQuantizationType.F16], ids=lambda kind: kind.name)
def test_wider_floats_come_back_as_the_bf16_they_were(tmp_path: Path, matrices: GGMLQuantizationType) -> None:
    """Where f16 has no bits left, below 2^-14, values are absolutely near: a rounding of 2^-25."""
    write_with_package(tmp_path / "model.gguf", BARE, matrices)
    found, expected = tensors_of(open_checkpoint(tmp_path / "model.gguf")), tensors_of(BARE)
    for name, tensor in expected.items():
        is_large = (tensor.abs() >= 2.0**-14) if matrices == GGMLQuantizationType.F16 else torch.ones_like(tensor) > 0
        assert found[name].dtype == torch.bfloat16
        assert torch.equal(found[name][is_large], tensor[is_large]), name
        assert torch.allclose(found[name].float(), tensor.float(), rtol=0, atol=2.0**-24), name


def test_q8_0_is_read_as_the_package_dequantises_it(tmp_path: Path) -> None:
    write_with_package(tmp_path / "model.gguf", BARE, GGMLQuantizationType.Q8_0)
    embedding = BARE.embedding().embedding.float().numpy()
    quantised = gguf.quantize(embedding, GGMLQuantizationType.Q8_0)
    exact = torch.from_numpy(gguf.dequantize(quantised, GGMLQuantizationType.Q8_0))
    assert torch.equal(open_checkpoint(tmp_path / "model.gguf").embedding().embedding, exact.to(torch.bfloat16))


def test_experts_that_were_dequantised_are_read_as_bf16(tmp_path: Path) -> None:
    write_with_package(tmp_path / "model.gguf", BARE, experts=GGMLQuantizationType.BF16)
    checkpoint = open_checkpoint(tmp_path / "model.gguf")
    assert isinstance(checkpoint.expert(0, 0).mlp1, torch.Tensor)
    assert not checkpoint.format.are_experts_packed
    assert_same_model(checkpoint, BARE)


@pytest.mark.parametrize("named", [1, 3])
def test_a_split_model_is_found_by_any_of_its_parts(tmp_path: Path, named: int) -> None:
    write_with_package(tmp_path / "model.gguf", BARE, max_tensors=16)
    parts = sorted(file.name for file in tmp_path.iterdir())
    assert parts == [f"model-{number:05d}-of-00003.gguf" for number in (1, 2, 3)]
    assert_same_model(open_checkpoint(tmp_path / parts[named - 1]), BARE)
    assert_same_model(open_checkpoint(tmp_path), BARE)
    assert inspect_checkpoint(tmp_path).num_files == 3
    (tmp_path / parts[1]).unlink()
    report = inspect_checkpoint(tmp_path / parts[0])
    assert report.problems == (f"{tmp_path / parts[1]}: is missing",)


def test_parts_under_a_name_that_says_less_are_refused(tmp_path: Path) -> None:
    write_with_package(tmp_path / "model.gguf", BARE, max_tensors=16)
    (tmp_path / "model-00001-of-00003.gguf").rename(tmp_path / "first.gguf")
    with pytest.raises(CheckpointDamaged, match=r"split.count is 3, but its name says it is one of 1"):
        open_checkpoint(tmp_path / "first.gguf")


def write_as_ollama(file: Path, is_fused: bool) -> None:
    """Write SOURCE under the names of Ollama: its second layout, or its first one, fused and of type 4."""
    config = CONFIG
    tensors: list[tuple[str, BlockType, torch.Tensor, tuple[int, ...]]] = []

    def add(name: str, values: torch.Tensor, block_type: BlockType = F32) -> None:
        tensors.append((name, block_type, encode(values, block_type), tuple(values.shape)))

    def add_mxfp4(name: str, matrices: list[Mxfp4Tensor]) -> None:
        data = [torch.cat((m.scales.unsqueeze(-1), m.blocks), dim=-1) if is_fused else pack_mxfp4(m) for m in matrices]
        tensors.append((name, OLLAMA_MXFP4 if is_fused else MXFP4, torch.stack(data), (len(data), *matrices[0].shape)))

    add("token_embd.weight", SOURCE.embedding().embedding, BF16)
    add("output_norm.weight", SOURCE.head().norm)
    add("output.weight", SOURCE.head().unembedding, BF16)
    for layer in range(config.num_layers):
        attention, gate, prefix = SOURCE.attention(layer), SOURCE.gate(layer), f"blk.{layer}."
        add_qkv(add, prefix, attention, is_fused)
        add(prefix + "attn_out.weight", attention.out_weight, BF16)
        add(prefix + "attn_out.bias", attention.out_bias)
        add(prefix + "attn_sinks", attention.sinks)
        add(prefix + "attn_norm.weight", attention.norm)
        add(prefix + "ffn_norm.weight", gate.norm)
        add(prefix + "ffn_gate_inp.weight", gate.weight)
        add(prefix + "ffn_gate_inp.bias", gate.bias)
        experts = [SOURCE.expert(layer, number) for number in range(config.num_experts)]
        halves = {"gate_up": slice(None)} if is_fused else {"gate": slice(0, None, 2), "up": slice(1, None, 2)}
        for half, rows in halves.items():
            matrices = [each.mlp1 for each in experts if isinstance(each.mlp1, Mxfp4Tensor)]
            sliced = [Mxfp4Tensor(m.blocks[rows], m.scales[rows]) for m in matrices]
            add_mxfp4(f"{prefix}ffn_{half}_exps.weight", sliced)
            add(f"{prefix}ffn_{half}_exps.bias", torch.stack([each.mlp1_bias[rows] for each in experts]))
        add_mxfp4(prefix + "ffn_down_exps.weight", [e.mlp2 for e in experts if isinstance(e.mlp2, Mxfp4Tensor)])
        add(prefix + "ffn_down_exps.bias", torch.stack([each.mlp2_bias for each in experts]))
    plan = GgufPlan.of(ollama_metadata(config), [(name, kind, shape) for name, kind, _, shape in tensors])
    with GgufWriter(file, plan) as writer:
        for _, _, data, _ in tensors:
            writer.write([data])


def add_qkv(add: Callable[..., None], prefix: str, attention: AttentionWeights, is_fused: bool) -> None:
    sizes = [CONFIG.num_heads * CONFIG.head_dim, *[CONFIG.num_kv_heads * CONFIG.head_dim] * 2]
    names = ["attn_qkv"] if is_fused else ["attn_q", "attn_k", "attn_v"]
    splits = [sum(sizes)] if is_fused else sizes
    for name, weight, bias in zip(
        names, attention.qkv_weight.split(splits), attention.qkv_bias.split(splits), strict=True
    ):
        add(f"{prefix}{name}.weight", weight, BF16)
        add(f"{prefix}{name}.bias", bias)


def ollama_metadata(config: ModelConfig) -> dict[str, int | float | str | list[int] | list[str]]:
    return {
        "general.architecture": "gptoss",
        "gptoss.block_count": config.num_layers,
        "gptoss.context_length": config.max_positions,
        "gptoss.embedding_length": config.hidden_size,
        "gptoss.feed_forward_length": config.intermediate_size,
        "gptoss.expert_count": config.num_experts,
        "gptoss.expert_used_count": config.experts_per_token,
        "gptoss.attention.head_count": config.num_heads,
        "gptoss.attention.head_count_kv": config.num_kv_heads,
        "gptoss.attention.key_length": config.head_dim,
        "gptoss.attention.value_length": config.head_dim,
        "gptoss.attention.layer_norm_rms_epsilon": config.norm_eps,
        "gptoss.attention.sliding_window": config.sliding_window,
        "gptoss.rope.freq_base": config.rope_theta,
        "gptoss.rope.scaling.factor": config.rope_factor,
        "gptoss.rope.scaling.original_context_length": config.rope_original_positions,
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.tokens": [f"token {number}" for number in range(config.vocab_size)],
    }


@pytest.mark.parametrize("is_fused", [False, True])
def test_a_blob_of_ollama_is_read_whatever_its_name(tmp_path: Path, is_fused: bool) -> None:
    file = tmp_path / "sha256-0a1b2c"
    write_as_ollama(file, is_fused)
    assert_same_model(open_model(str(file)), SOURCE)
    assert inspect_checkpoint(file).unknown_tensors == ()


def test_a_quantisation_that_is_not_read_is_named(tmp_path: Path) -> None:
    write_with_package(tmp_path / "model.gguf", BARE, GGMLQuantizationType.Q5_0)
    report = inspect_checkpoint(tmp_path / "model.gguf")
    assert len(report.problems) == 2 + 4 * CONFIG.num_layers
    with pytest.raises(CheckpointMismatch, match=r"token_embd.weight: is Q5_0; what is read here is BF16, F16"):
        open_checkpoint(tmp_path / "model.gguf")


def test_a_file_of_another_architecture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.gguf").write_bytes(GgufPlan.of({"general.architecture": "llama"}, []).header)
    with pytest.raises(CheckpointDamaged, match=r"other.gguf: metadata general.architecture = 'llama'"):
        open_checkpoint(tmp_path / "other.gguf")


def test_a_key_that_is_missing_is_named(tmp_path: Path) -> None:
    metadata = ollama_metadata(CONFIG)
    del metadata["gptoss.expert_count"]
    (tmp_path / "model.gguf").write_bytes(GgufPlan.of(metadata, []).header)
    with pytest.raises(CheckpointDamaged, match=r"model.gguf: metadata gptoss.expert_count: is missing"):
        open_checkpoint(tmp_path / "model.gguf")


def test_a_vocabulary_of_another_size_than_the_embedding_is_refused(tmp_path: Path) -> None:
    plan = plan_gguf(CONFIG)
    tensors = [(tensor.name, tensor.block_type, tensor.shape) for tensor in plan.tensors]
    metadata = ollama_metadata(CONFIG) | {"tokenizer.ggml.tokens": ["one"] * 99}
    other = GgufPlan.of(metadata, tensors)
    (tmp_path / "model.gguf").write_bytes(other.header.ljust(other.num_bytes, b"\0"))
    with pytest.raises(CheckpointMismatch, match=r"token_embd.weight: has shape \[101, 64\], .* for \[99, 64\]"):
        open_checkpoint(tmp_path / "model.gguf")


def test_a_directory_of_several_models_asks_for_one(tmp_path: Path, packaged: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(packaged.read_bytes())
    with pytest.raises(CheckpointMissing, match=r"name one of the files: a.gguf, b.gguf"):
        open_checkpoint(tmp_path)


def test_a_directory_in_another_format_stays_that(tmp_path: Path, packaged: Path) -> None:
    path = write_random_checkpoint(tmp_path / "model", CONFIG, 1)
    (path / "model.gguf").write_bytes(packaged.read_bytes())
    assert open_checkpoint(path).format.name == "packed"


def test_one_expert_of_the_published_size_costs_one_expert(tmp_path: Path) -> None:
    """A file of 13.8 GB that is a hole but for its header: what is read of it would show in the process's memory."""
    plan = plan_gguf(GPT_OSS_20B)
    file = tmp_path / "gpt-oss-20b.gguf"
    file.write_bytes(plan.header)
    os.truncate(file, plan.num_bytes)
    assert file.stat().st_blocks * 512 < 20_000_000
    checkpoint = open_checkpoint(file)
    assert checkpoint.config == GPT_OSS_20B
    expert = checkpoint.expert(23, 31)
    assert isinstance(expert.mlp1, Mxfp4Tensor)
    assert (expert.mlp1.shape, dense(expert.mlp2).shape) == ((5760, 2880), (2880, 2880))
    assert int(expert.mlp1.blocks.sum()) == 0
    checkpoint.release()
    with pytest.raises(IndexError, match="no expert"):
        checkpoint.expert(24, 0)


def test_a_file_cut_after_it_was_opened_is_an_error(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "model.gguf", SOURCE)
    checkpoint = open_checkpoint(file)
    os.truncate(file, file.stat().st_size // 2)
    with pytest.raises(CheckpointDamaged, match="ends at byte"):
        checkpoint.expert(1, 2)
