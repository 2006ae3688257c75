"""GgufStore: the tensors of one or several GGUF files by name, memory-mapped; values as bf16, experts as MXFP4."""

import mmap
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from model.checkpoint.gguf.block_types import F32, MXFP4_TYPES, Q8_0, VALUE_TYPES
from model.checkpoint.gguf.blocks import decode, q8_blocks, unpack_mxfp4
from model.checkpoint.gguf.header import GgufTensor
from model.checkpoint.layout import StoredTensor
from model.errors import CheckpointDamaged, CheckpointError, CheckpointMismatch, CheckpointMissing
from model.mxfp4 import Mxfp4Tensor
from model.q8 import quantize


@dataclass(slots=True)
class GgufStore:
    """Tensors by name. Where a file holds bf16, what is returned is a view of it."""

    origin: Path
    """The file to name when a tensor is nowhere."""
    entries: dict[str, GgufTensor] = field(default_factory=dict[str, GgufTensor])
    files: dict[str, Path] = field(default_factory=dict[str, Path])
    """The file of each tensor."""
    in_q8: frozenset[str] = frozenset()
    """Matrices to return as Q8_0 blocks [N, n, 34] u8: views where the file holds them so, rounded where not."""
    _mapped: dict[Path, "_MappedFile"] = field(default_factory=dict[Path, "_MappedFile"])

    def add_file(self, file: Path, tensors: dict[str, GgufTensor]) -> None:
        """Take in the tensors of `file`; raises CheckpointDamaged if another file has one of them."""
        for name in tensors:
            if name in self.files:
                raise CheckpointDamaged(file, name, f"is also in {self.files[name].name}")
        self.entries |= tensors
        self.files |= dict.fromkeys(tensors, file)

    def problem(self, stored: StoredTensor) -> CheckpointError | None:
        """Return why `stored` cannot be read as its layout says, or None if it can."""
        entry = self.entries.get(stored.name)
        if entry is None:
            return CheckpointMissing(self.origin, stored.name, "is missing")
        file = self.files[stored.name]
        allowed = VALUE_TYPES | MXFP4_TYPES if stored.part == "expert_weights" else VALUE_TYPES
        if entry.block_type not in allowed:
            names = ", ".join(sorted(each.name for each in allowed))
            return CheckpointMismatch(file, stored.name, f"is {entry.block_type.name}; what is read here is {names}")
        if entry.shape != stored.shape:
            problem = f"has shape {list(entry.shape)}, but the metadata asks for {list(stored.shape)}"
            return CheckpointMismatch(file, stored.name, problem)
        return None

    def read(self, name: str) -> Tensor:
        """Return the whole tensor `name`: values as bf16 but for norms that would be rounded, or blocks if `in_q8`."""
        entry = self.entries[name]
        data = self._bytes(entry, None)
        if name in self.in_q8 and entry.block_type == Q8_0:
            return q8_blocks(data, entry.shape)
        values = decode(data, entry.block_type, entry.shape)
        if name in self.in_q8:
            return quantize(values)
        if entry.block_type == F32 and name.endswith("_norm.weight"):
            exact = data.view(torch.float32)
            return values if torch.equal(values.float(), exact) else exact
        return values

    def read_row(self, name: str, index: int) -> Tensor:
        """Return row `index` of the tensor `name` along its first dimension as bf16, without touching the others."""
        entry = self.entries[name]
        return decode(self._bytes(entry, index), entry.block_type, entry.shape[1:])

    def is_mxfp4(self, name: str) -> bool:
        """Return whether the tensor `name` is held as MXFP4."""
        return self.entries[name].block_type in MXFP4_TYPES

    def is_q8(self, name: str) -> bool:
        """Return whether the tensor `name` is held as Q8_0."""
        return self.entries[name].block_type == Q8_0

    def read_mxfp4_row(self, name: str, index: int) -> Mxfp4Tensor:
        """Return row `index` of the tensor `name`, a matrix held as MXFP4."""
        entry = self.entries[name]
        return unpack_mxfp4(self._bytes(entry, index), entry.block_type, entry.shape[1])

    def release(self) -> None:
        """Let go of all pages that were read; tensors returned so far stay good, and read them anew."""
        for mapped in self._mapped.values():
            if hasattr(mmap, "MADV_DONTNEED"):
                mapped.mapping.madvise(mmap.MADV_DONTNEED)

    def _bytes(self, entry: GgufTensor, index: int | None) -> Tensor:
        """Return the bytes of a tensor, or of one of its rows, as a view of the mapped file."""
        file = self.files[entry.name]
        if file not in self._mapped:
            self._mapped[file] = _MappedFile.of(file)
        start, num_bytes = entry.start, entry.num_bytes
        if index is not None:
            num_rows = entry.shape[0]
            assert 0 <= index < num_rows, f"{entry.name} has {num_rows} rows, and none with index {index}"
            num_bytes //= num_rows
            start += index * num_bytes
        mapped = self._mapped[file].values
        if start + num_bytes > len(mapped):
            raise CheckpointDamaged(file, entry.name, f"ends at byte {start + num_bytes} of a file of {len(mapped)}")
        return mapped[start : start + num_bytes]


@dataclass(frozen=True, slots=True)
class _MappedFile:
    """A file in memory, as a mapping and as a tensor of its bytes."""

    mapping: mmap.mmap
    values: Tensor

    @classmethod
    def of(cls, file: Path) -> "_MappedFile":
        """Map `file`; raises CheckpointMissing."""
        try:
            with file.open("rb") as stream:
                mapping = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise CheckpointMissing(file, None, f"cannot be read: {error}") from error
        with warnings.catch_warnings():  # of a buffer that is not to be written to
            warnings.simplefilter("ignore")
            return cls(mapping, torch.frombuffer(mapping, dtype=torch.uint8))
