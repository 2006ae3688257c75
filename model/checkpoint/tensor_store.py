"""TensorStore: the tensors of several safetensors files by name, memory-mapped; whole ones, or one row of a stack."""

import mmap
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from model.checkpoint.layout import StoredTensor
from model.checkpoint.safetensors_header import LENGTH_BYTES, TensorEntry, read_header
from model.errors import CheckpointDamaged, CheckpointError, CheckpointMismatch, CheckpointMissing


@dataclass(slots=True)
class TensorStore:
    """Tensors by name. What is returned are views of mapped files: read lazily, and only as good as the file stays."""

    origin: Path
    """The index, file or directory to name when a tensor is nowhere."""
    entries: dict[str, TensorEntry] = field(default_factory=dict[str, TensorEntry])
    files: dict[str, Path] = field(default_factory=dict[str, Path])
    """The file of each tensor."""
    _mappings: dict[Path, mmap.mmap] = field(default_factory=dict[Path, mmap.mmap])

    def add_file(self, file: Path) -> None:
        """Take in the header of `file`; raises CheckpointError naming the file, and the tensor if it is one."""
        entries = read_header(file)
        for name in entries:
            if name in self.files:
                raise CheckpointDamaged(file, name, f"is also in {self.files[name].name}")
        self.entries |= entries
        self.files |= dict.fromkeys(entries, file)

    def problem(self, stored: StoredTensor) -> CheckpointError | None:
        """Return why `stored` cannot be read as its layout says, or None if it can."""
        entry = self.entries.get(stored.name)
        if entry is None:
            return CheckpointMissing(self.origin, stored.name, "is missing")
        file = self.files[stored.name]
        if entry.dtype not in stored.dtypes:
            return CheckpointMismatch(file, stored.name, f"is {entry.dtype}, but should be {stored.dtype}")
        if entry.shape != stored.shape:
            problem = f"has shape {list(entry.shape)}, but config.json asks for {list(stored.shape)}"
            return CheckpointMismatch(file, stored.name, problem)
        return None

    def read(self, name: str) -> Tensor:
        """Return the whole tensor `name`."""
        return self._read(name, self.entries[name])

    def read_row(self, name: str, index: int) -> Tensor:
        """Return row `index` of the tensor `name` along its first dimension, without touching the others."""
        return self._read(name, self._row(name, index))

    def release(self) -> None:
        """Let go of all pages that were read; tensors returned so far stay good, and read them anew."""
        for mapping in self._mappings.values():
            if hasattr(mmap, "MADV_DONTNEED"):
                mapping.madvise(mmap.MADV_DONTNEED)

    def _row(self, name: str, index: int) -> TensorEntry:
        """Return the entry of one row."""
        entry = self.entries[name]
        num_rows = entry.shape[0]
        assert 0 <= index < num_rows, f"{name} has {num_rows} rows, and none with index {index}"
        row_bytes = entry.num_bytes // num_rows
        start = entry.start + index * row_bytes
        return replace(entry, shape=entry.shape[1:], start=start, end=start + row_bytes)

    def _read(self, name: str, entry: TensorEntry) -> Tensor:
        mapping = self._mapping(self.files[name], name)
        first, end = _span(mapping, entry)
        if end > len(mapping):
            raise CheckpointDamaged(self.files[name], name, f"ends at byte {end} of a file of {len(mapping)}")
        if entry.num_bytes == 0:
            return torch.empty(entry.shape, dtype=entry.dtype)
        with warnings.catch_warnings():  # of a buffer that is not to be written to
            warnings.simplefilter("ignore")
            values = torch.frombuffer(mapping, dtype=torch.uint8, count=entry.num_bytes, offset=first)
        aligned = values if first % entry.dtype.itemsize == 0 else values.clone()
        return aligned.view(entry.dtype).view(entry.shape)

    def _mapping(self, file: Path, name: str) -> mmap.mmap:
        if file not in self._mappings:
            try:
                with file.open("rb") as stream:
                    self._mappings[file] = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
            except (OSError, ValueError) as error:
                raise CheckpointDamaged(file, name, f"cannot be read: {error}") from error
        return self._mappings[file]


def _span(mapping: mmap.mmap, entry: TensorEntry) -> tuple[int, int]:
    """Return where in its file a tensor begins and ends."""
    header_bytes = int.from_bytes(mapping[:LENGTH_BYTES], "little") + LENGTH_BYTES
    return header_bytes + entry.start, header_bytes + entry.end
