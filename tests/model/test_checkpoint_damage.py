"""Checkpoints that are incomplete, damaged or lying: one clear error each, naming file and tensor."""

import json
import pickle
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from model.checkpoint.open import open_checkpoint
from model.checkpoint.write import write_random_checkpoint
from model.errors import CheckpointDamaged, CheckpointError, CheckpointMismatch, CheckpointMissing
from tests.support.random_model import random_config

CONFIG = random_config(num_layers=2, num_experts=4, experts_per_token=2, vocab_size=101, max_positions=131072)
SHARD_BYTES = 150_000
BLOCKS = "model.layers.1.mlp.experts.gate_up_proj_blocks"
INDEX = "model.safetensors.index.json"
Damage = Callable[[Path], None]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with a sound checkpoint of each kind."""
    root = tmp_path_factory.mktemp("sound")
    write_random_checkpoint(root / "single", CONFIG, 1, "packed")
    write_random_checkpoint(root / "sharded", CONFIG, 1, "packed", SHARD_BYTES)
    write_random_checkpoint(root / "original", CONFIG, 1, "original", SHARD_BYTES)
    return root


def damaged(sound: Path, tmp_path: Path, kind: str, damage: Damage) -> Path:
    path = tmp_path / kind
    shutil.copytree(sound / kind, path)
    open_checkpoint(path)
    damage(path)
    return path


def error_of(path: Path, kind: type[CheckpointError]) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    assert type(caught.value) is kind, caught.value
    assert str(caught.value.file) in str(caught.value)
    return caught.value


def read_parts(file: Path) -> tuple[dict[str, Any], bytes]:
    """Return a safetensors file's header and tensors' bytes."""
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def write_parts(file: Path, header: object, data: bytes) -> None:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(len(encoded).to_bytes(8, "little") + encoded + data)


def edit_entry(name: str, **changes: object) -> Damage:
    """Return the damage that changes the entry of one tensor in the header."""

    def damage(path: Path) -> None:
        header, data = read_parts(path / "model.safetensors")
        header[name] |= changes
        write_parts(path / "model.safetensors", header, data)

    return damage


def edit_json(name: str, edit: Callable[[dict[str, Any]], object]) -> Damage:
    def damage(path: Path) -> None:
        document = json.loads((path / name).read_text())
        edit(document)
        (path / name).write_text(json.dumps(document))

    return damage


def content(name: str, value: bytes) -> Damage:
    return lambda path: void((path / name).write_bytes(value))


def gone(name: str) -> Damage:
    return lambda path: (path / name).unlink()


def cut(name: str, num_bytes: int) -> Damage:
    return lambda path: void((path / name).write_bytes((path / name).read_bytes()[:num_bytes]))


def void(_: object) -> None:
    pass


DOCUMENTS: list[tuple[str, Damage, type[CheckpointError], str, str]] = [
    ("single", gone("config.json"), CheckpointMissing, "config.json", "is missing"),
    ("single", content("config.json", b"{"), CheckpointDamaged, "config.json", "is not JSON"),
    ("single", content("config.json", b"\xff\xfe"), CheckpointDamaged, "config.json", "is not JSON"),
    ("single", content("config.json", b"[" * 100_000), CheckpointDamaged, "config.json", "is not JSON"),
    ("single", content("config.json", b"[1]"), CheckpointDamaged, "config.json", "JSON object, not list"),
    (
        "single",
        edit_json("config.json", lambda document: document.update(hidden_size=65)),
        CheckpointDamaged,
        "config.json",
        "hidden_size = 65",
    ),
    ("single", content("generation_config.json", b"?"), CheckpointDamaged, "generation_config.json", "is not JSON"),
    ("sharded", gone(INDEX), CheckpointMissing, INDEX, "is missing, and so is model.safetensors"),
    ("sharded", content(INDEX, b"{}"), CheckpointDamaged, INDEX, "no weight_map"),
    ("sharded", content(INDEX, b"null"), CheckpointDamaged, INDEX, "JSON object"),
    ("single", gone("model.safetensors"), CheckpointMissing, INDEX, "and so is model.safetensors"),
]


@pytest.mark.parametrize(("kind", "damage", "error", "file", "message"), DOCUMENTS)
def test_documents_are_named(
    sound: Path, tmp_path: Path, kind: str, damage: Damage, error: type[CheckpointError], file: str, message: str
) -> None:
    path = damaged(sound, tmp_path, kind, damage)
    caught = error_of(path, error)
    assert caught.file == path / file
    assert caught.tensor is None
    assert message in str(caught)


SIZE = "has [0-9]+ bytes by its offsets, but shape"
SINK = "model.layers.0.self_attn.sinks"
HEADERS: list[tuple[Damage, str | None, str]] = [
    (content("model.safetensors", b""), None, "too few for a safetensors file"),
    (content("model.safetensors", b"PK\3\4"), None, "too few"),
    (content("model.safetensors", b"<html><body>404 not found"), None, "is no safetensors file"),
    (
        content("model.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"),
        None,
        "Git LFS pointer.*git lfs pull",
    ),
    (cut("model.safetensors", 8), None, "truncated inside its header, at 8 bytes"),
    (cut("model.safetensors", 100), None, "truncated inside its header"),
    (cut("model.safetensors", 100_000), BLOCKS.replace("1", "0"), "ends beyond the file"),
    (lambda path: write_parts(path / "model.safetensors", b"{,}", b""), None, "header is not JSON"),
    (lambda path: write_parts(path / "model.safetensors", b"[" * 10**6, b""), None, "header is not JSON"),
    (lambda path: write_parts(path / "model.safetensors", [], b""), None, "not a JSON object"),
    (lambda path: write_parts(path / "model.safetensors", {"a": 3}, b""), "a", "has dtype None"),
    (lambda path: write_parts(path / "model.safetensors", b'{"a":1,"b":2,"a":1}', b""), "a", "stands twice"),
    (
        lambda path: write_parts(path / "model.safetensors", *trailing(path / "model.safetensors")),
        None,
        "has 3 bytes after its last tensor",
    ),
    (edit_entry(SINK, dtype="BF17"), SINK, "has dtype 'BF17'"),
    (edit_entry(SINK, dtype=["BF16"]), SINK, "has dtype"),
    (edit_entry(SINK, shape=[-4]), SINK, "has shape"),
    (edit_entry(SINK, shape=[True, 4]), SINK, "has shape"),
    (edit_entry(SINK, shape=4), SINK, "has shape 4"),
    (edit_entry(SINK, shape=[5]), SINK, SIZE),
    (edit_entry(SINK, shape=[2**62, 2**62]), SINK, SIZE),
    (edit_entry(SINK, data_offsets=[0, 10**15]), SINK, SIZE),
    (edit_entry(SINK, data_offsets=[10**15, 10**15 + 8]), SINK, "ends beyond the file"),
    (edit_entry(SINK, data_offsets=[8, 0]), SINK, "has data_offsets"),
    (edit_entry(SINK, data_offsets=[-8, 0]), SINK, "has data_offsets"),
    (edit_entry(SINK, data_offsets=[0]), SINK, "has data_offsets"),
    (edit_entry(SINK, data_offsets=[8, 16]), None, "but|begins at"),
    (edit_entry(SINK, data_offsets="0-8"), SINK, "has data_offsets"),
]


def trailing(file: Path) -> tuple[dict[str, Any], bytes]:
    header, data = read_parts(file)
    return header, data + b"end"


@pytest.mark.parametrize(("damage", "tensor", "message"), HEADERS)
def test_lying_files_are_named_with_their_tensor(
    sound: Path, tmp_path: Path, damage: Damage, tensor: str | None, message: str
) -> None:
    path = damaged(sound, tmp_path, "single", damage)
    caught = error_of(path, CheckpointDamaged)
    assert caught.file == path / "model.safetensors"
    assert re.search(message, str(caught)), caught
    if tensor:
        assert caught.tensor == tensor


MISMATCHES: list[tuple[Damage, str, str]] = [
    (edit_entry(SINK, dtype="F16"), SINK, "is torch.float16, but should be torch.bfloat16"),
    (edit_entry(SINK, shape=[2, 2]), SINK, "has shape [2, 2], but config.json asks for [4]"),
    (edit_entry(BLOCKS, dtype="I8"), BLOCKS, "is torch.int8, but should be torch.uint8"),
    (
        edit_json("config.json", lambda document: document.update(sliding_window=64, num_attention_heads=8)),
        "model.layers.0.self_attn.q_proj.weight",
        "has shape [128, 64], but config.json asks for [256, 64]",
    ),
    (
        edit_json("config.json", lambda document: document.update(num_local_experts=3)),
        "model.layers.0.mlp.router.weight",
        "has shape [4, 64], but config.json asks for [3, 64]",
    ),
]


@pytest.mark.parametrize(("damage", "tensor", "message"), MISMATCHES)
def test_wrong_shapes_and_dtypes_are_named(
    sound: Path, tmp_path: Path, damage: Damage, tensor: str, message: str
) -> None:
    caught = error_of(damaged(sound, tmp_path, "single", damage), CheckpointMismatch)
    assert (caught.file.name, caught.tensor) == ("model.safetensors", tensor)
    assert message in str(caught)


def rename_entry(old: str, new: str) -> Damage:
    def damage(path: Path) -> None:
        header, data = read_parts(path / "model.safetensors")
        header[new] = header.pop(old)
        write_parts(path / "model.safetensors", header, data)

    return damage


def test_a_missing_tensor_is_named(sound: Path, tmp_path: Path) -> None:
    path = damaged(sound, tmp_path, "single", rename_entry(SINK, "sinks"))
    caught = error_of(path, CheckpointMissing)
    assert (caught.file, caught.tensor) == (path, SINK)


def test_a_missing_shard_is_named(sound: Path, tmp_path: Path) -> None:
    shard = sorted((sound / "sharded").glob("*.safetensors"))[1].name
    path = damaged(sound, tmp_path, "sharded", gone(shard))
    assert str(error_of(path, CheckpointMissing)) == f"{path / shard}: is missing"
    (path / shard).symlink_to("../../blobs/nowhere")
    assert str(error_of(path, CheckpointMissing)) == f"{path / shard}: is a link to a file that is gone"
    (path / shard).unlink()
    (path / shard).mkdir()
    assert "cannot be read: Is a directory" in str(error_of(path, CheckpointMissing))


def test_a_missing_file_of_the_original_layout_is_known_by_its_number(sound: Path, tmp_path: Path) -> None:
    shards = sorted((sound / "original").glob("*.safetensors"))
    path = damaged(sound, tmp_path, "original", gone(shards[1].name))
    assert str(error_of(path, CheckpointMissing)) == f"{path / shards[1].name}: is missing"
    for shard in shards:
        (path / shard.name).unlink(missing_ok=True)
    assert "holds no *.safetensors" in str(error_of(path, CheckpointMissing))


def test_a_tensor_in_two_files_is_refused(sound: Path, tmp_path: Path) -> None:
    shards = sorted((sound / "original").glob("*.safetensors"))
    again = "model--extra.safetensors"
    path = damaged(sound, tmp_path, "original", lambda path: void(shutil.copy(shards[0], path / again)))
    caught = error_of(path, CheckpointDamaged)
    assert caught.file == path / again
    assert caught.tensor == "embedding.weight"
    assert "is also in model--00001-of" in str(caught)


def test_an_index_that_names_the_wrong_shard_is_refused(sound: Path, tmp_path: Path) -> None:
    last = sorted((sound / "sharded").glob("*.safetensors"))[-1].name
    edit = edit_json(INDEX, lambda document: document["weight_map"].update({"lm_head.weight": last}))
    caught = error_of(damaged(sound, tmp_path, "sharded", edit), CheckpointMissing)
    assert (caught.file.name, caught.tensor) == (last, "lm_head.weight")
    assert f"{INDEX} says it is here" in str(caught)


@pytest.mark.parametrize(
    "name",
    ["../secret.safetensors", "/etc/passwd", "a/../../b.safetensors", "..", "", "\\\\host\\x.safetensors", 3, None],
)
def test_an_index_may_not_name_files_elsewhere(sound: Path, tmp_path: Path, name: object) -> None:
    edit = edit_json(INDEX, lambda document: document["weight_map"].update({"lm_head.weight": name}))
    caught = error_of(damaged(sound, tmp_path, "sharded", edit), CheckpointDamaged)
    assert (caught.file.name, caught.tensor) == (INDEX, "lm_head.weight")


def test_paths_that_are_no_checkpoints_are_named(sound: Path, tmp_path: Path) -> None:
    assert "no such directory" in str(error_of(tmp_path / "nowhere", CheckpointMissing))
    file = sound / "single" / "model.safetensors"
    assert "is a file; a checkpoint is the directory" in str(error_of(file, CheckpointMissing))
    assert "config.json: is missing" in str(error_of(tmp_path, CheckpointMissing))


def test_whatever_a_header_says_the_answer_is_a_checkpoint_error(sound: Path, tmp_path: Path) -> None:
    """Flips bits of the header; a file then opens as it is, or fails in the one known way."""
    path = damaged(sound, tmp_path, "single", lambda _: None)
    file = path / "model.safetensors"
    whole = bytearray(file.read_bytes())
    header_bytes = 8 + int.from_bytes(whole[:8], "little")
    num_refused = 0
    for seed in range(300):
        generator = random.Random(seed)
        broken = bytearray(whole)
        for _ in range(generator.randint(1, 3)):
            broken[generator.randrange(header_bytes)] ^= 1 << generator.randrange(8)
        file.write_bytes(broken)
        try:
            open_checkpoint(path).head().unembedding.sum()
        except CheckpointError:
            num_refused += 1
    assert num_refused > 200


def test_errors_survive_pickling() -> None:
    error = pickle.loads(pickle.dumps(CheckpointMissing("a/b.safetensors", "lm_head.weight", "is missing")))
    assert type(error) is CheckpointMissing
    assert str(error) == "a/b.safetensors: tensor lm_head.weight: is missing"
