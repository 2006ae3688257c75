"""The header of a GGUF file, read field by field with every count and length bounded before anything is allocated.

The file is little-endian: `GGUF`, version u32, number of tensors u64, number of keys u64; the metadata, each a key, a
value type and a value; each tensor's name, dimensions (the fastest first), type and offset; padding to the alignment;
the tensors' bytes. Strings are a length u64 and UTF-8 (the public GGUF specification, versions 2 and 3).
"""

import math
import mmap
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TypeAlias

import numpy as np

from model.checkpoint.gguf.block_types import BLOCK_TYPES, BlockType
from model.errors import CheckpointDamaged, CheckpointMissing

MAGIC = b"GGUF"
DEFAULT_ALIGNMENT = 32
MAX_ALIGNMENT = 1 << 16
MAX_HEADER_BYTES = 256 * 1024 * 1024
"""The vocabulary of gpt-oss with its merges takes 12 MB."""
MAX_KEYS = 65_536
MAX_TENSORS = 65_536
MAX_NAME_BYTES = 1024
MAX_DIMENSIONS = 4
MAX_KEPT_ITEMS = 4096
"""Longer arrays are counted and skipped: nothing we read from metadata is longer."""

UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""`struct` codes by value type."""


@dataclass(frozen=True, slots=True)
class SkippedArray:
    """An array in the metadata of which only the number of items is kept: all of strings, and long ones."""

    count: int


MetadataValue: TypeAlias = int | float | bool | str | Sequence[int | float | bool] | SkippedArray


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """Where one tensor lies in the file, and as what."""

    name: str
    block_type: BlockType
    shape: tuple[int, ...]
    """In values, the slowest dimension first, as everywhere else here."""
    start: int
    """In bytes from the beginning of the file."""

    @property
    def num_bytes(self) -> int:
        """Return its bytes in the file."""
        return math.prod(self.shape) // self.block_type.block_values * self.block_type.block_bytes


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What stands before the tensors' bytes."""

    metadata: dict[str, MetadataValue]
    tensors: dict[str, GgufTensor]


def is_gguf(path: Path) -> bool:
    """Return whether `path` is a file that begins as GGUF does, whatever its name; Ollama's have no ending."""
    try:
        with path.open("rb") as stream:
            return stream.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def read_gguf_header(file: Path) -> GgufHeader:
    """Return the header of `file`; raises CheckpointMissing or CheckpointDamaged naming file and field."""
    try:
        with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _read(_Cursor(file, data))
    except FileNotFoundError:
        raise CheckpointMissing(file, None, "is missing") from None
    except OSError as error:
        raise CheckpointMissing(file, None, f"cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # what mmap says of a file of no bytes
        raise CheckpointDamaged(file, None, f"is no GGUF file: {error}") from error


class _Cursor:
    """A place in the header; every read is checked against the file's end before it is made."""

    def __init__(self, file: Path, data: mmap.mmap) -> None:
        self.file = file
        self.data = data
        self.position = 0
        self._end = min(len(data), MAX_HEADER_BYTES)

    def damaged(self, problem: str, tensor: str | None = None) -> CheckpointDamaged:
        """Return the error that says `problem` of the file."""
        return CheckpointDamaged(self.file, tensor, problem)

    def skip(self, num_bytes: int, field: str) -> int:
        """Move past `num_bytes` of `field` and return where they begin."""
        start = self.position
        if num_bytes > self._end - start:
            reason = "the file ends" if self._end == len(self.data) else f"the header passes {MAX_HEADER_BYTES} bytes"
            raise self.damaged(f"{reason} inside {field}, which would take {num_bytes} bytes from byte {start}")
        self.position += num_bytes
        return start

    def number(self, code: str, field: str) -> int:
        """Return an integer of the `struct` code."""
        (value,) = struct.unpack_from("<" + code, self.data, self.skip(struct.calcsize("<" + code), field))
        return value

    def count(self, code: str, field: str, limit: int) -> int:
        """Return an integer that must not pass `limit`."""
        value = self.number(code, field)
        if value > limit:
            raise self.damaged(f"{field} is {value}, and at most {limit} can be")
        return value

    def string(self, field: str, max_bytes: int = MAX_HEADER_BYTES) -> str:
        """Return a string of at most `max_bytes`."""
        length = self.count("Q", f"the length of {field}", max_bytes)
        start = self.skip(length, field)
        try:
            return self.data[start : start + length].decode()
        except UnicodeDecodeError as error:
            raise self.damaged(f"{field} is not UTF-8") from error

    def skip_strings(self, count: int, field: str) -> None:
        """Move past `count` strings."""
        lengths = struct.Struct("<Q")
        for _ in range(count):
            start = self.skip(lengths.size, field)
            self.skip(lengths.unpack_from(self.data, start)[0], field)


def _read(cursor: _Cursor) -> GgufHeader:
    magic = cursor.skip(len(MAGIC), "its first four bytes")
    if cursor.data[magic : magic + len(MAGIC)] != MAGIC:
        raise cursor.damaged("is no GGUF file: it does not begin with GGUF")
    _check_version(cursor, cursor.number("I", "its version"))
    num_tensors = cursor.count("Q", "the number of tensors", MAX_TENSORS)
    num_keys = cursor.count("Q", "the number of keys", MAX_KEYS)
    metadata: dict[str, MetadataValue] = {}
    for _ in range(num_keys):
        key = cursor.string("a key of the metadata", MAX_NAME_BYTES)
        if key in metadata:
            raise cursor.damaged(f"{key} stands twice in the metadata")
        metadata[key] = _value(cursor, key)
    found = [_tensor(cursor) for _ in range(num_tensors)]
    alignment = _alignment(cursor, metadata)
    data_start = -(-cursor.position // alignment) * alignment
    tensors: dict[str, GgufTensor] = {}
    for tensor in found:
        if tensor.name in tensors:
            raise cursor.damaged("stands twice in the header", tensor.name)
        tensors[tensor.name] = _placed(cursor, tensor, data_start, alignment)
    _check_overlaps(cursor, tensors)
    return GgufHeader(metadata, tensors)


def _check_version(cursor: _Cursor, version: int) -> None:
    if version >= 1 << 24:
        raise cursor.damaged("is a big-endian GGUF file; only little-endian ones are read")
    if version not in {2, 3}:
        raise cursor.damaged(f"is GGUF of version {version}; versions 2 and 3 are read")


def _value(cursor: _Cursor, key: str) -> MetadataValue:
    kind = cursor.number("I", f"the type of {key}")
    if kind == STRING:
        return cursor.string(key)
    if kind == ARRAY:
        return _array(cursor, key)
    return _scalars(cursor, key, kind, 1)[0]


def _array(cursor: _Cursor, key: str) -> MetadataValue:
    kind = cursor.number("I", f"the type of the items of {key}")
    count = cursor.number("Q", f"the number of items of {key}")
    if kind == STRING:
        cursor.skip_strings(count, key)
        return SkippedArray(count)
    if count <= MAX_KEPT_ITEMS:
        return _scalars(cursor, key, kind, count)
    cursor.skip(count * struct.calcsize("<" + _scalar_code(cursor, key, kind)), key)
    return SkippedArray(count)


def _scalars(cursor: _Cursor, key: str, kind: int, count: int) -> list[int | float | bool]:
    code = _scalar_code(cursor, key, kind)
    start = cursor.skip(count * struct.calcsize("<" + code), key)
    values = struct.unpack_from(f"<{count}{code}", cursor.data, start)
    return [shortest_float(value) for value in values] if kind == FLOAT32 else list(values)


def _scalar_code(cursor: _Cursor, key: str, kind: int) -> str:
    if kind not in SCALARS:
        raise cursor.damaged(f"{key} has a value of type {kind}, which is none, or arrays inside an array")
    return SCALARS[kind]


def shortest_float(value: float) -> float:
    """Return the shortest decimal that is the same float32: 1e-05, where float32 holds 9.99999974737875e-06."""
    return float(str(np.float32(value)))


def _tensor(cursor: _Cursor) -> GgufTensor:
    """Return a tensor with its offset, which counts from the data's start that is not known yet."""
    name = cursor.string("the name of a tensor", MAX_NAME_BYTES)
    num_dimensions = cursor.count("I", f"the number of dimensions of {name}", MAX_DIMENSIONS)
    shape = tuple(cursor.count("Q", f"a dimension of {name}", 1 << 40) for _ in range(num_dimensions))[::-1]
    number = cursor.number("I", f"the type of {name}")
    offset = cursor.number("Q", f"the offset of {name}")
    block_type = BLOCK_TYPES.get(number)
    if block_type is None:
        raise cursor.damaged(f"has type {number}, which we do not know", name)
    if not shape or shape[-1] % block_type.block_values:
        raise cursor.damaged(f"has shape {list(shape)}, which {block_type.name} cannot hold", name)
    return GgufTensor(name, block_type, shape, offset)


def _alignment(cursor: _Cursor, metadata: dict[str, MetadataValue]) -> int:
    value = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if not isinstance(value, int) or not 8 <= value <= MAX_ALIGNMENT or value & (value - 1):
        raise cursor.damaged(f"general.alignment is {value!r}, not a power of two from 8 to {MAX_ALIGNMENT}")
    return value


def _placed(cursor: _Cursor, tensor: GgufTensor, data_start: int, alignment: int) -> GgufTensor:
    placed = GgufTensor(tensor.name, tensor.block_type, tensor.shape, data_start + tensor.start)
    if tensor.start % alignment:
        raise cursor.damaged(f"begins at byte {tensor.start} of the data, no multiple of {alignment}", tensor.name)
    missing = placed.start + placed.num_bytes - len(cursor.data)
    if missing > 0:
        raise cursor.damaged(f"ends beyond the file, which lacks at least {missing} bytes", tensor.name)
    return placed


def _check_overlaps(cursor: _Cursor, tensors: dict[str, GgufTensor]) -> None:
    ordered = sorted(tensors.values(), key=lambda tensor: tensor.start)
    for before, after in pairwise(ordered):
        if before.start + before.num_bytes > after.start:
            raise cursor.damaged(f"begins inside {before.name}", after.name)
