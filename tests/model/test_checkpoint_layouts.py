"""The three layouts: their names and shapes as published, and one model read equally from each."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import GptOssConfig, GptOssForCausalLM

from model.checkpoint.bf16 import BF16
from model.checkpoint.checkpoint import Checkpoint
from model.checkpoint.layout import CheckpointFormat, FormatName
from model.checkpoint.open import open_checkpoint
from model.checkpoint.original import ORIGINAL
from model.checkpoint.packed import PACKED
from model.checkpoint.random_weights import RandomWeights
from model.checkpoint.safetensors_header import read_header
from model.checkpoint.safetensors_writer import header_bytes
from model.checkpoint.weights import HeadWeights
from model.checkpoint.write import write_checkpoint, write_random_checkpoint
from model.config import GPT_OSS_20B, GPT_OSS_120B, ModelConfig
from model.errors import ConfigError
from model.mxfp4 import Mxfp4Tensor
from tests.support.random_model import random_config
from tests.support.same_model import assert_same_model, dense, tensors_of

LAYOUTS: list[FormatName] = ["packed", "bf16", "original"]
SINGLE_SHARD = 10**9
CONFIG = random_config(num_layers=3, num_experts=5, experts_per_token=2, vocab_size=101, max_positions=131072)


@pytest.mark.parametrize(
    ("model_format", "num_tensors"), [(PACKED, 459), (ORIGINAL, 363), (BF16, 411)], ids=lambda value: str(value)[:30]
)
def test_layouts_hold_as_many_tensors_and_bytes_as_published(model_format: CheckpointFormat, num_tensors: int) -> None:
    """20b, packed: 19 tensors a layer and 3 more. `original/` fuses q, k and v; bf16 has no scales."""
    stored = [tensor for group in model_format.layout(GPT_OSS_20B).values() for tensor in group]
    assert len({tensor.name for tensor in stored}) == len(stored) == num_tensors
    packed = model_format.are_experts_packed
    assert sum(tensor.num_bytes for tensor in stored) == GPT_OSS_20B.checkpoint_bytes(packed)
    if packed:
        stored = [tensor for group in model_format.layout(GPT_OSS_120B).values() for tensor in group]
        assert sum(tensor.num_bytes for tensor in stored) == 65_248_815_744


PUBLISHED_SHAPES = {
    "packed": {
        "model.embed_tokens.weight": (201088, 2880),
        "model.norm.weight": (2880,),
        "lm_head.weight": (201088, 2880),
        "model.layers.23.input_layernorm.weight": (2880,),
        "model.layers.23.post_attention_layernorm.weight": (2880,),
        "model.layers.23.self_attn.q_proj.weight": (4096, 2880),
        "model.layers.23.self_attn.k_proj.bias": (512,),
        "model.layers.23.self_attn.v_proj.weight": (512, 2880),
        "model.layers.23.self_attn.o_proj.weight": (2880, 4096),
        "model.layers.23.self_attn.o_proj.bias": (2880,),
        "model.layers.23.self_attn.sinks": (64,),
        "model.layers.23.mlp.router.weight": (32, 2880),
        "model.layers.23.mlp.router.bias": (32,),
        "model.layers.23.mlp.experts.gate_up_proj_blocks": (32, 5760, 90, 16),
        "model.layers.23.mlp.experts.gate_up_proj_scales": (32, 5760, 90),
        "model.layers.23.mlp.experts.gate_up_proj_bias": (32, 5760),
        "model.layers.23.mlp.experts.down_proj_blocks": (32, 2880, 90, 16),
        "model.layers.23.mlp.experts.down_proj_scales": (32, 2880, 90),
        "model.layers.23.mlp.experts.down_proj_bias": (32, 2880),
    },
    "bf16": {
        "model.layers.0.mlp.experts.gate_up_proj": (32, 2880, 5760),
        "model.layers.0.mlp.experts.down_proj": (32, 2880, 2880),
    },
    "original": {
        "embedding.weight": (201088, 2880),
        "norm.scale": (2880,),
        "unembedding.weight": (201088, 2880),
        "block.23.attn.norm.scale": (2880,),
        "block.23.attn.qkv.weight": (5120, 2880),
        "block.23.attn.qkv.bias": (5120,),
        "block.23.attn.sinks": (64,),
        "block.23.attn.out.weight": (2880, 4096),
        "block.23.attn.out.bias": (2880,),
        "block.23.mlp.norm.scale": (2880,),
        "block.23.mlp.gate.weight": (32, 2880),
        "block.23.mlp.gate.bias": (32,),
        "block.23.mlp.mlp1_weight.blocks": (32, 5760, 90, 16),
        "block.23.mlp.mlp1_weight.scales": (32, 5760, 90),
        "block.23.mlp.mlp1_bias": (32, 5760),
        "block.23.mlp.mlp2_weight.blocks": (32, 2880, 90, 16),
        "block.23.mlp.mlp2_weight.scales": (32, 2880, 90),
        "block.23.mlp.mlp2_bias": (32, 2880),
    },
}


@pytest.mark.parametrize("model_format", [PACKED, BF16, ORIGINAL], ids=lambda value: value.name)
def test_names_and_shapes_are_the_published_ones(model_format: CheckpointFormat) -> None:
    stored = {tensor.name: tensor for group in model_format.layout(GPT_OSS_20B).values() for tensor in group}
    for name, shape in PUBLISHED_SHAPES[model_format.name].items():
        assert stored[name].shape == shape
        is_packed = name.endswith(("blocks", "scales"))
        assert stored[name].dtype == (torch.uint8 if is_packed else torch.bfloat16)


@pytest.mark.parametrize("max_shard_bytes", [SINGLE_SHARD, 40_000])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_model_is_read_equally_from_every_layout(tmp_path: Path, layout: FormatName, max_shard_bytes: int) -> None:
    path = write_random_checkpoint(tmp_path / "model", CONFIG, 11, layout, max_shard_bytes)
    checkpoint = open_checkpoint(path)
    assert checkpoint.format.name == layout
    assert_same_model(checkpoint, RandomWeights(CONFIG, 11))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_files_are_what_the_safetensors_library_reads(tmp_path: Path, layout: FormatName) -> None:
    path = write_random_checkpoint(tmp_path / "model", CONFIG, 5, layout, SINGLE_SHARD)
    checkpoint = open_checkpoint(path)
    library = load_file(path / "model.safetensors")
    assert library.keys() == {stored.name for stored in checkpoint.stored_tensors()}
    for stored in checkpoint.stored_tensors():
        assert torch.equal(library[stored.name], checkpoint.store.read(stored.name))


def test_random_weights_depend_on_the_seed_alone() -> None:
    first, again, other = (tensors_of(RandomWeights(CONFIG, seed)) for seed in (1, 1, 2))
    for name, tensor in first.items():
        assert torch.equal(tensor, again[name])
        assert not torch.equal(tensor, other[name])
    assert len({tensor.view(torch.int16).numpy().tobytes() for tensor in first.values()}) == len(first)


def test_checkpoints_convert_between_layouts_without_loss(tmp_path: Path) -> None:
    """Packed to bf16 to `original/`: requantising changes no value."""
    path = write_random_checkpoint(tmp_path / "packed", CONFIG, 3)
    for layout in ("bf16", "original", "packed"):
        path = write_checkpoint(tmp_path / f"as-{layout}", open_checkpoint(path), layout)
    assert_same_model(open_checkpoint(path), RandomWeights(CONFIG, 3))


def test_shards_are_named_as_published(tmp_path: Path) -> None:
    """Hugging Face's count from 0 to one less than there are, those of `original/` from 1, after two dashes."""
    most = CONFIG.checkpoint_bytes() * 3 // 4
    packed = write_random_checkpoint(tmp_path / "packed", CONFIG, 1, "packed", most)
    original = write_random_checkpoint(tmp_path / "original", CONFIG, 1, "original", most)
    names = {path.name: sorted(file.name for file in path.glob("*.safetensors")) for path in (packed, original)}
    assert names["packed"] == ["model-00000-of-00001.safetensors", "model-00001-of-00001.safetensors"]
    assert names["original"] == ["model--00001-of-00002.safetensors", "model--00002-of-00002.safetensors"]
    index = json.loads((packed / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == CONFIG.checkpoint_bytes()
    assert not list(original.glob("*index*"))


def test_original_folder_is_found_inside_a_root_without_weights(tmp_path: Path) -> None:
    write_random_checkpoint(tmp_path / "root" / "original", CONFIG, 2, "original")
    (tmp_path / "root" / "config.json").write_text(json.dumps(CONFIG.to_json()))
    for path in (tmp_path / "root", tmp_path / "root" / "original"):
        assert open_checkpoint(path).format is ORIGINAL
    write_random_checkpoint(tmp_path / "both", CONFIG, 2, "packed")
    (tmp_path / "root" / "original").rename(tmp_path / "both" / "original")
    assert open_checkpoint(tmp_path / "both").format is PACKED


def test_a_model_hubs_cache_of_symlinks_is_read(tmp_path: Path) -> None:
    real = write_random_checkpoint(tmp_path / "real", CONFIG, 4, "packed", 40_000)
    blobs, snapshot = tmp_path / "hub" / "blobs", tmp_path / "hub" / "snapshots" / "0a1b"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, file in enumerate(sorted(real.iterdir())):
        file.rename(blobs / f"blob{number}")
        (snapshot / file.name).symlink_to(Path("..") / ".." / "blobs" / f"blob{number}")
    assert_same_model(open_checkpoint(snapshot), RandomWeights(CONFIG, 4))


def test_a_fine_tune_saved_by_transformers_is_read(tmp_path: Path) -> None:
    """Transformers keeps norms in float32 and stores experts transposed; every other value is bf16."""
    torch.manual_seed(0)
    model = GptOssForCausalLM(GptOssConfig.from_dict(CONFIG.to_json(packed=False))).bfloat16()
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, std=0.1)
        if "norm" in name:
            parameter.data = parameter.data.float()
    model.save_pretrained(tmp_path / "tuned")
    checkpoint, state = open_checkpoint(tmp_path / "tuned"), model.state_dict()
    assert checkpoint.format is BF16
    assert_reads_state(checkpoint, state)


def assert_reads_state(checkpoint: Checkpoint, state: dict[str, Tensor]) -> None:
    head = checkpoint.head()
    assert torch.equal(checkpoint.embedding().embedding, state["model.embed_tokens.weight"])
    assert torch.equal(head.unembedding, state["lm_head.weight"])
    assert head.norm.dtype == torch.float32
    for layer in range(checkpoint.config.num_layers):
        prefix = f"model.layers.{layer}."
        attention, gate = checkpoint.attention(layer), checkpoint.gate(layer)
        projections = [state[f"{prefix}self_attn.{name}_proj.weight"] for name in "qkv"]
        assert torch.equal(attention.qkv_weight, torch.cat(projections))
        assert torch.equal(attention.sinks, state[f"{prefix}self_attn.sinks"])
        assert torch.equal(gate.norm, state[f"{prefix}post_attention_layernorm.weight"])
        assert torch.equal(gate.weight, state[f"{prefix}mlp.router.weight"])
        for number in range(checkpoint.config.num_experts):
            expert = checkpoint.expert(layer, number)
            assert torch.equal(dense(expert.mlp1), state[f"{prefix}mlp.experts.gate_up_proj"][number].t())
            assert torch.equal(dense(expert.mlp2), state[f"{prefix}mlp.experts.down_proj"][number].t())
            assert torch.equal(expert.mlp1_bias, state[f"{prefix}mlp.experts.gate_up_proj_bias"][number])


def test_one_expert_of_the_published_size_costs_one_expert(tmp_path: Path) -> None:
    """A file of 13.8 GB that is a hole but for its header: what is read of it would show in the process's memory."""
    stored = [tensor for group in PACKED.layout(GPT_OSS_20B).values() for tensor in group]
    file = tmp_path / "model.safetensors"
    file.write_bytes(header_bytes(stored))
    os.truncate(file, file.stat().st_size + GPT_OSS_20B.checkpoint_bytes())
    (tmp_path / "config.json").write_text(json.dumps(GPT_OSS_20B.to_json()))
    assert file.stat().st_blocks * 512 < 1_000_000

    checkpoint = open_checkpoint(tmp_path)
    expert = checkpoint.expert(23, 31)
    assert isinstance(expert.mlp1, Mxfp4Tensor)
    assert isinstance(expert.mlp2, Mxfp4Tensor)
    assert (expert.mlp1.shape, expert.mlp2.shape) == ((5760, 2880), (2880, 2880))
    num_bytes = expert.mlp1.num_bytes + expert.mlp2.num_bytes + 2 * (5760 + 2880)
    assert num_bytes == GPT_OSS_20B.expert_bytes() == 13_236_480
    assert int(expert.mlp1.blocks.sum()) == 0
    for layer, number in ((24, 0), (0, 32), (-1, 0), (0, -1)):
        with pytest.raises(IndexError, match="no expert"):
            checkpoint.expert(layer, number)


def test_whole_tensors_have_canonical_names(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_random_checkpoint(tmp_path / "model", CONFIG, 6))
    assert torch.equal(checkpoint.tensor("layers.1.attention.qkv_bias"), checkpoint.attention(1).qkv_bias)
    assert torch.equal(checkpoint.tensor("layers.1.experts.mlp2_bias")[4], checkpoint.expert(1, 4).mlp2_bias)
    with pytest.raises(KeyError):
        checkpoint.tensor("layers.3.gate.norm")


def test_writing_leaves_nothing_or_all_of_it(tmp_path: Path) -> None:
    class FailingSource(RandomWeights):
        def head(self) -> HeadWeights:
            raise RuntimeError("out of weights")

    with pytest.raises(RuntimeError, match="out of weights"):
        write_checkpoint(tmp_path / "model", FailingSource(CONFIG, 1))
    assert list(tmp_path.iterdir()) == []
    write_random_checkpoint(tmp_path / "model", CONFIG, 1)
    with pytest.raises(FileExistsError, match="not empty"):
        write_random_checkpoint(tmp_path / "model", CONFIG, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_written_bytes_are_told(tmp_path: Path) -> None:
    told: list[int] = []
    write_checkpoint(tmp_path / "model", RandomWeights(CONFIG, 1), on_bytes=told.append)
    assert sum(told) == CONFIG.checkpoint_bytes()
    assert sum(entry.num_bytes for entry in read_header(tmp_path / "model" / "model.safetensors").values()) == sum(told)


def test_what_the_original_document_cannot_say_is_refused(tmp_path: Path) -> None:
    config: ModelConfig = random_config(layer_types=("full",) * 4, max_positions=131072)
    with pytest.raises(ConfigError, match="layer_types"):
        write_random_checkpoint(tmp_path / "model", config, 1, "original")
