"""Experts kept packed on disk: the same bits, filled in by whoever needs them, mapped by the next."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

import model.packed_experts as packed_module
from model.cache_dir import CACHE_VARIABLE
from model.checkpoint.checkpoint import Checkpoint
from model.checkpoint.open import open_checkpoint
from model.checkpoint.random_weights import RandomWeights
from model.checkpoint.weights import ExpertWeights
from model.checkpoint.write import write_checkpoint
from model.expert_shard import ExpertShard
from model.kernels.mxfp4_linear import Mxfp4Weight
from model.kernels.native_library import native_library
from model.load import load_experts
from model.mxfp4 import Mxfp4Tensor
from model.numerics import Numerics
from model.packed_experts import PackedExperts, forget_orphans, packed_experts
from tests.support.random_model import random_config

pytestmark = pytest.mark.skipif(native_library() is None, reason="there is no compiler")
CONFIG = random_config(num_layers=2, num_experts=3, experts_per_token=2)
PRECISE = Numerics.of("precise")


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checkpoint:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(packed_module, "LEAST_BYTES", 0)
    write_checkpoint(tmp_path / "model", RandomWeights(CONFIG, seed=4))
    opened = open_checkpoint(tmp_path / "model")
    assert isinstance(opened, Checkpoint)
    return opened


def opened(checkpoint: Checkpoint) -> PackedExperts:
    packed = packed_experts(checkpoint, PRECISE, "cpu")
    assert isinstance(packed, PackedExperts)
    return packed


def parts(weights: ExpertWeights) -> list[Tensor]:
    """Return an expert as a checkpoint holds it, biases as float32."""
    found: list[Tensor] = []
    for matrix in (weights.mlp1, weights.mlp2):
        plain = matrix.unpacked() if isinstance(matrix, Mxfp4Weight) else matrix
        assert isinstance(plain, Mxfp4Tensor)
        found += [plain.blocks, plain.scales]
    return [*found, weights.mlp1_bias.float(), weights.mlp2_bias.float()]


def all_equal(first: ExpertWeights, second: ExpertWeights) -> bool:
    return all(torch.equal(one, other) for one, other in zip(parts(first), parts(second), strict=True))


def test_packed_experts_are_the_checkpoints_own(checkpoint: Checkpoint) -> None:
    packed = opened(checkpoint)
    for layer in range(CONFIG.num_layers):
        for expert in range(CONFIG.num_experts):
            assert all_equal(packed.expert(layer, expert), checkpoint.expert(layer, expert))


class _Unread(Checkpoint):
    """A checkpoint whose experts must not be read."""

    def expert(self, layer: int, expert: int) -> ExpertWeights:
        """Fail."""
        raise AssertionError(f"expert {expert} of layer {layer} was read")


def unread(checkpoint: Checkpoint) -> Checkpoint:
    return _Unread(checkpoint.path, checkpoint.format, checkpoint.config, checkpoint.layout, checkpoint.store)


def test_the_next_start_reads_no_expert_that_was_kept(checkpoint: Checkpoint) -> None:
    first = opened(checkpoint)
    first.expert(0, 1)
    first.expert(1, 2)
    first.keep()
    second = opened(unread(checkpoint))
    assert all_equal(second.expert(0, 1), checkpoint.expert(0, 1))
    assert all_equal(second.expert(1, 2), checkpoint.expert(1, 2))
    with pytest.raises(AssertionError, match="expert 0 of layer 0 was read"):
        second.expert(0, 0)


def test_what_was_not_kept_is_packed_again(checkpoint: Checkpoint) -> None:
    """A process that dies before `keep` leaves bytes that nobody may trust."""
    opened(checkpoint).expert(0, 0).mlp1_bias.fill_(7.0)
    assert all_equal(opened(checkpoint).expert(0, 0), checkpoint.expert(0, 0))


def test_a_shard_of_packed_experts_gives_the_same_bits(checkpoint: Checkpoint) -> None:
    keys = [(layer, expert) for layer in range(CONFIG.num_layers) for expert in range(CONFIG.num_experts)]
    rows = torch.randn(5, CONFIG.hidden_size, generator=torch.Generator().manual_seed(0))
    row_ids, expert_ids = torch.tensor([0, 1, 2, 3, 4, 0]), torch.tensor([2, 1, 0, 0, 2, 1])
    outputs: list[Tensor] = []
    for source in (checkpoint, opened(checkpoint), opened(checkpoint)):
        shard = ExpertShard(CONFIG, PRECISE, "cpu", 0)
        load_experts(source, shard, keys)
        outputs.append(shard.forward(1, rows, row_ids, expert_ids))
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])


def test_a_checkpoint_that_has_changed_is_packed_anew(checkpoint: Checkpoint) -> None:
    first = opened(checkpoint)
    first.expert(0, 0)
    first.keep()
    shutil.rmtree(checkpoint.path)
    write_checkpoint(checkpoint.path, RandomWeights(CONFIG, seed=5))
    changed = open_checkpoint(checkpoint.path)
    assert isinstance(changed, Checkpoint)
    assert not all_equal(changed.expert(0, 0), first.expert(0, 0))
    assert all_equal(opened(changed).expert(0, 0), changed.expert(0, 0))


def test_it_is_used_only_where_it_helps(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = RandomWeights(CONFIG, seed=4)
    assert packed_experts(weights, PRECISE, "cpu") is weights
    assert packed_experts(checkpoint, Numerics.of("float32"), "cpu") is checkpoint
    assert packed_experts(checkpoint, PRECISE, "cuda") is checkpoint
    monkeypatch.setattr(packed_module, "LEAST_BYTES", 10**12)
    assert packed_experts(checkpoint, PRECISE, "cpu") is checkpoint


def test_a_disk_without_room_is_no_error(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_module, "SPARE_DISK_BYTES", 10**18)
    assert packed_experts(checkpoint, PRECISE, "cpu") is checkpoint


def test_packed_experts_go_with_their_checkpoint(checkpoint: Checkpoint, tmp_path: Path) -> None:
    opened(checkpoint).keep()
    parent = tmp_path / "cache" / "packed"
    (folder,) = parent.iterdir()
    assert json.loads((folder / "files.json").read_text()) == [str(file) for file in checkpoint.files()]
    forget_orphans(parent)
    assert folder.exists()
    checkpoint.files()[0].unlink()
    forget_orphans(parent)
    assert not folder.exists()


def test_released_pages_are_read_anew(checkpoint: Checkpoint) -> None:
    before = checkpoint.embedding().embedding
    copy = before.clone()
    checkpoint.release()
    assert torch.equal(before, copy)
