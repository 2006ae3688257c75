"""The header of a safetensors file, checked entry by entry, so that an error can name the tensor that is wrong.

The file is: the header's length as 8 little-endian bytes, the header as a JSON object, and the tensors' bytes without
gaps. `__metadata__` aside, an entry is name -> {dtype, shape, data_offsets [start, end) in the tensors' bytes}.
"""

import json
import math
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import cast

import torch

from model.errors import CheckpointDamaged, CheckpointMissing

LENGTH_BYTES = 8
MAX_HEADER_BYTES = 100_000_000
"""The safetensors library's own limit."""
DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}
"""By their name in a header, the dtypes that a checkpoint might hold; others are refused where they stand."""
_GIT_LFS_POINTER = b"version https://git-lfs"


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """Where one tensor lies in the tensors' bytes, and as what."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def num_bytes(self) -> int:
        """Return its bytes in the file."""
        return self.end - self.start


def read_header(file: Path) -> dict[str, TensorEntry]:
    """Return the entries of `file` by name; raises CheckpointMissing or CheckpointDamaged naming file and tensor."""
    try:
        with file.open("rb") as stream:
            file_bytes = stream.seek(0, 2)
            stream.seek(0)
            prefix = stream.read(LENGTH_BYTES)
            header_bytes = int.from_bytes(prefix, "little")
            _check_prefix(file, prefix + stream.peek(len(_GIT_LFS_POINTER)), header_bytes, file_bytes)
            header = stream.read(header_bytes)
    except FileNotFoundError:
        problem = "is a link to a file that is gone" if file.is_symlink() else "is missing"
        raise CheckpointMissing(file, None, problem) from None
    except OSError as error:
        raise CheckpointMissing(file, None, f"cannot be read: {error.strerror or error}") from error
    entries = [_entry(file, name, value) for name, value in _parse(file, header).items() if name != "__metadata__"]
    _check_coverage(file, entries, file_bytes - LENGTH_BYTES - header_bytes)
    return {entry.name: entry for entry in entries}


def _check_prefix(file: Path, beginning: bytes, header_bytes: int, file_bytes: int) -> None:
    if beginning.startswith(_GIT_LFS_POINTER):
        raise CheckpointDamaged(file, None, "is a Git LFS pointer, not the file itself; run `git lfs pull` to get it")
    if len(beginning) < LENGTH_BYTES:
        raise CheckpointDamaged(file, None, f"has {file_bytes} bytes, too few for a safetensors file")
    if header_bytes > MAX_HEADER_BYTES:
        raise CheckpointDamaged(file, None, f"is no safetensors file: its header would have {header_bytes} bytes")
    if LENGTH_BYTES + header_bytes > file_bytes:
        raise CheckpointDamaged(file, None, f"is truncated inside its header, at {file_bytes} bytes")


def _parse(file: Path, header: bytes) -> dict[str, object]:
    def refuse_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
        values = dict(pairs)
        if len(values) < len(pairs):
            repeated = next(name for name, _ in pairs if sum(name == other for other, _ in pairs) > 1)
            raise CheckpointDamaged(file, repeated, "stands twice in the header")
        return values

    try:
        document = json.loads(header, object_pairs_hook=refuse_repeats)
    except (ValueError, RecursionError) as error:
        raise CheckpointDamaged(file, None, f"its header is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise CheckpointDamaged(file, None, "its header is not a JSON object")
    return document


def _entry(file: Path, name: str, value: object) -> TensorEntry:
    fields = cast("dict[str, object]", value) if isinstance(value, dict) else {}
    dtype = DTYPES.get(str(fields.get("dtype")))
    if dtype is None:
        raise CheckpointDamaged(file, name, f"has dtype {fields.get('dtype')!r}, which no gpt-oss checkpoint holds")
    shape = _sizes(fields.get("shape"))
    if shape is None:
        raise CheckpointDamaged(file, name, f"has shape {fields.get('shape')!r}, which is none")
    offsets = _sizes(fields.get("data_offsets"))
    if offsets is None or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise CheckpointDamaged(file, name, f"has data_offsets {fields.get('data_offsets')!r}, which are none")
    start, end = offsets
    expected_bytes = math.prod(shape) * dtype.itemsize
    if end - start != expected_bytes:
        problem = f"has {end - start} bytes by its offsets, but shape {list(shape)} needs {expected_bytes}"
        raise CheckpointDamaged(file, name, problem)
    return TensorEntry(name, dtype, shape, start, end)


def _sizes(value: object) -> tuple[int, ...] | None:
    """Return a list of integers from 0 as a tuple, or None for anything else."""
    sizes = cast("list[object]", value) if isinstance(value, list) else [None]
    integers = tuple(size for size in sizes if isinstance(size, int) and not isinstance(size, bool) and size >= 0)
    return integers if len(integers) == len(sizes) else None


def _check_coverage(file: Path, entries: list[TensorEntry], data_bytes: int) -> None:
    """Check that the tensors cover the bytes after the header without gaps, overlaps or a remainder."""
    ordered = sorted(entries, key=lambda entry: (entry.start, entry.end))
    for entry in ordered:
        if entry.end > data_bytes:
            missing = ordered[-1].end - data_bytes
            raise CheckpointDamaged(file, entry.name, f"ends beyond the file, which lacks at least {missing} bytes")
    if ordered and ordered[0].start:
        raise CheckpointDamaged(file, ordered[0].name, f"begins at byte {ordered[0].start} of the tensors, not at 0")
    for before, after in pairwise(ordered):
        if before.end != after.start:
            problem = f"begins at byte {after.start} of the tensors, but {before.name} ends at {before.end}"
            raise CheckpointDamaged(file, after.name, problem)
    covered = ordered[-1].end if ordered else 0
    if covered < data_bytes:
        raise CheckpointDamaged(file, None, f"has {data_bytes - covered} bytes after its last tensor")
