"""Damaged and hostile headers: one CheckpointError that names file and field, and nothing large allocated."""

import random
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from model.checkpoint.gguf.block_types import F32
from model.checkpoint.gguf.header import (
    MAX_KEYS,
    MAX_TENSORS,
    SkippedArray,
    is_gguf,
    read_gguf_header,
    shortest_float,
)
from model.checkpoint.gguf.writer import GgufPlan
from model.errors import CheckpointDamaged, CheckpointError, CheckpointMissing

HUGE = 2**62
MAX_PEAK_BYTES = 4_000_000
NUM_FUZZED = 400


def string(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def header(*, version: int = 3, num_tensors: int = 0, pairs: bytes = b"", num_keys: int = 0) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, num_tensors, num_keys) + pairs


def tensor(name: str = "t", dimensions: tuple[int, ...] = (32,), kind: int = 0, offset: int = 0) -> bytes:
    sizes = struct.pack(f"<I{len(dimensions)}Q", len(dimensions), *dimensions)
    return string(name) + sizes + struct.pack("<IQ", kind, offset)


def with_data(beginning: bytes, num_bytes: int = 128) -> bytes:
    return beginning.ljust(-(-len(beginning) // 32) * 32 + num_bytes, b"\0")


DAMAGED: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "is no GGUF file"),
    "magic": (b"GGML" + bytes(40), "does not begin with GGUF"),
    "version 1": (header(version=1), "version 1"),
    "big endian": (header(version=3 << 24), "big-endian"),
    "cut in the version": (b"GGUF\3\0", "inside its version"),
    "tensors": (header(num_tensors=MAX_TENSORS + 1), "the number of tensors is 65537"),
    "keys": (header(num_keys=MAX_KEYS + 1), "the number of keys is 65537"),
    "huge key": (header(num_keys=1, pairs=struct.pack("<Q", HUGE)), "the length of a key of the metadata"),
    "huge string": (header(num_keys=1, pairs=string("k") + struct.pack("<IQ", 8, HUGE)), "the length of k"),
    "huge strings": (header(num_keys=1, pairs=string("k") + struct.pack("<IIQ", 9, 8, HUGE)), "inside k"),
    "huge numbers": (header(num_keys=1, pairs=string("k") + struct.pack("<IIQ", 9, 4, HUGE)), "inside k"),
    "nested arrays": (header(num_keys=1, pairs=string("k") + struct.pack("<IIQ", 9, 9, 1)), "arrays inside an array"),
    "kind": (header(num_keys=1, pairs=string("k") + struct.pack("<II", 13, 0)), "k has a value of type 13"),
    "not UTF-8": (header(num_keys=1, pairs=struct.pack("<QB", 1, 0xFF)), "is not UTF-8"),
    "twice": (header(num_keys=2, pairs=2 * (string("k") + struct.pack("<II", 4, 0))), "k stands twice"),
    "alignment": (header(num_keys=1, pairs=string("general.alignment") + struct.pack("<II", 4, 48)), "is 48, not a"),
    "dimensions": (header(num_tensors=1, pairs=tensor(dimensions=(1,) * 5)), "the number of dimensions of t is 5"),
    "no dimension": (header(num_tensors=1, pairs=tensor(dimensions=())), "tensor t: has shape []"),
    "huge dimension": (header(num_tensors=1, pairs=tensor(dimensions=(HUGE,))), "a dimension of t is"),
    "large dimensions": (header(num_tensors=1, pairs=tensor(dimensions=(2**39, 2**39))), "t: ends beyond the file"),
    "unknown type": (header(num_tensors=1, pairs=tensor(kind=77)), "tensor t: has type 77"),
    "half a block": (header(num_tensors=1, pairs=tensor(dimensions=(48,), kind=39)), "which MXFP4 cannot hold"),
    "offset": (with_data(header(num_tensors=1, pairs=tensor(offset=8))), "t: begins at byte 8"),
    "beyond": (with_data(header(num_tensors=1, pairs=tensor(offset=32))), "lacks at least 32 bytes"),
    "same name": (with_data(header(num_tensors=2, pairs=2 * tensor())), "tensor t: stands twice"),
    "overlap": (
        with_data(header(num_tensors=2, pairs=tensor("a") + tensor("b", offset=96)), 256),
        "tensor b: begins inside a",
    ),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_header_is_one_error_that_names_file_and_field(tmp_path: Path, case: str) -> None:
    content, message = DAMAGED[case]
    file = tmp_path / "model.gguf"
    file.write_bytes(content)
    tracemalloc.start()
    with pytest.raises(CheckpointDamaged) as damaged:
        read_gguf_header(file)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert str(damaged.value).startswith(str(file))
    assert message in str(damaged.value)
    assert peak < MAX_PEAK_BYTES


def test_what_is_not_there_or_no_file_is_missing(tmp_path: Path) -> None:
    for path in (tmp_path / "none.gguf", tmp_path):
        with pytest.raises(CheckpointMissing):
            read_gguf_header(path)
        assert not is_gguf(path)


def sound_header() -> bytes:
    numbers = list(range(5000))
    metadata = {"general.architecture": "gpt-oss", "f": 1e-5, "b": True, "n": [1, 2], "s": ["a", "ü"], "long": numbers}
    plan = GgufPlan.of(metadata, [("a", F32, (2, 3)), ("b", F32, (8,))])
    return plan.header.ljust(plan.num_bytes, b"\0")


def test_a_sound_header_says_what_was_written(tmp_path: Path) -> None:
    file = tmp_path / "blob-without-ending"
    file.write_bytes(sound_header())
    assert is_gguf(file)
    found = read_gguf_header(file)
    assert found.metadata == {
        "general.architecture": "gpt-oss",
        "f": 1e-5,
        "b": True,
        "n": [1, 2],
        "s": SkippedArray(2),
        "long": SkippedArray(5000),
    }
    assert {name: (each.shape, each.num_bytes) for name, each in found.tensors.items()} == {
        "a": ((2, 3), 24),
        "b": ((8,), 32),
    }
    assert all(each.start % 32 == 0 for each in found.tensors.values())


def flip(content: bytearray, generator: random.Random) -> None:
    content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)


def cut(content: bytearray, generator: random.Random) -> None:
    del content[generator.randrange(len(content)) :]


def fill(content: bytearray, generator: random.Random) -> None:
    start = generator.randrange(len(content))
    content[start : start + 8] = b"\xff" * 8


@pytest.mark.parametrize("damage", [flip, cut, fill], ids=lambda damage: damage.__name__)
def test_random_damage_is_refused_or_read_and_never_costs_memory(
    tmp_path: Path, damage: Callable[[bytearray, random.Random], None]
) -> None:
    sound, file, refused = sound_header(), tmp_path / "model.gguf", 0
    tracemalloc.start()
    for seed in range(NUM_FUZZED):
        content = bytearray(sound)
        damage(content, random.Random(seed))
        file.write_bytes(content)
        try:
            read_gguf_header(file)
        except CheckpointError:
            refused += 1
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert refused > 0
    assert peak < MAX_PEAK_BYTES


@pytest.mark.parametrize("value", [1e-5, 150000.0, 32.0, 0.1])
def test_a_float32_is_read_as_the_decimal_that_was_meant(value: float) -> None:
    (stored,) = struct.unpack("<f", struct.pack("<f", value))
    assert shortest_float(stored) == value
