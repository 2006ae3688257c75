"""What `inspect_checkpoint` reports of whole and of broken checkpoints."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from torch import zeros

from model.checkpoint.inspect import inspect_checkpoint
from model.checkpoint.layout import FormatName
from model.checkpoint.write import write_random_checkpoint
from model.errors import CheckpointMissing
from tests.support.random_model import random_config

CONFIG = random_config(num_layers=2, num_experts=4, experts_per_token=2, vocab_size=101, max_positions=131072)


@pytest.mark.parametrize("layout", ["packed", "bf16", "original"])
def test_a_whole_checkpoint_is_described_by_parts(tmp_path: Path, layout: FormatName) -> None:
    report = inspect_checkpoint(write_random_checkpoint(tmp_path / "model", CONFIG, 1, layout))
    assert report.is_whole
    assert (report.format, report.problems, report.unknown_tensors) == (layout, (), ())
    assert (report.config, report.num_files) == (CONFIG, 1)
    assert report.num_parameters == CONFIG.num_parameters()
    assert report.bytes_by_part == CONFIG.bytes_by_part(packed=layout != "bf16")
    assert report.tensor_bytes == report.bytes_by_part.total
    assert report.declared_bytes is None


def test_a_sharded_checkpoint_tells_what_its_index_declares(tmp_path: Path) -> None:
    report = inspect_checkpoint(write_random_checkpoint(tmp_path / "model", CONFIG, 1, "packed", 50_000))
    assert report.declared_bytes == report.tensor_bytes == CONFIG.checkpoint_bytes()
    assert report.num_files > 1


def test_every_problem_is_listed_and_what_is_there_is_counted(tmp_path: Path) -> None:
    path = write_random_checkpoint(tmp_path / "model", CONFIG, 1, "packed", 50_000)
    shards = sorted(path.glob("*.safetensors"))
    shards[0].unlink()
    shards[1].write_bytes(b"")
    present_bytes = sum(tensor.nbytes for shard in shards[2:] for tensor in load_file(shard).values())
    report = inspect_checkpoint(path)
    assert not report.is_whole
    assert [problem.split(": ")[0] for problem in report.problems] == [str(shard) for shard in shards[:2]]
    assert report.tensor_bytes == report.bytes_by_part.total == present_bytes < CONFIG.checkpoint_bytes()
    assert report.bytes_by_part.embedding == 0


def test_each_wrong_tensor_is_listed_and_unknown_ones_are_no_problem(tmp_path: Path) -> None:
    path = write_random_checkpoint(tmp_path / "model", CONFIG, 1)
    file = path / "model.safetensors"
    tensors = load_file(file)
    del tensors["lm_head.weight"]
    tensors["model.layers.1.self_attn.sinks"] = zeros(5)
    tensors["model.layers.9.self_attn.sinks"] = zeros(4)
    save_file(tensors, file)
    report = inspect_checkpoint(path)
    assert report.unknown_tensors == ("model.layers.9.self_attn.sinks",)
    assert list(report.problems) == [
        f"{path}: tensor lm_head.weight: is missing",
        f"{file}: tensor model.layers.1.self_attn.sinks: is torch.float32, but should be torch.bfloat16",
    ]


def test_the_report_is_json(tmp_path: Path) -> None:
    path = write_random_checkpoint(tmp_path / "model", CONFIG, 1)
    document = json.loads(json.dumps(inspect_checkpoint(path).to_json()))
    assert document["is_whole"] is True
    assert document["path"] == str(path)
    assert document["bytes_by_part"]["embedding"] == 101 * 64 * 2
    assert document["config"]["num_hidden_layers"] == 2


def test_what_is_no_checkpoint_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointMissing, match=r"config\.json: is missing"):
        inspect_checkpoint(tmp_path)
