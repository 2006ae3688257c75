"""TensorStore: the tensors of several safetensors files by name, memory-mapped; whole ones, or one row of a stack."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from safetensors import SafetensorError, safe_open
from torch import Tensor

from model.checkpoint.layout import StoredTensor
from model.checkpoint.safetensors_header import TensorEntry, read_header
from model.errors import CheckpointDamaged, CheckpointError, CheckpointMismatch, CheckpointMissing


@dataclass(slots=True)
class TensorStore:
    """Tensors by name. What is returned are views of mapped files: read lazily, and only as good as the file stays."""

    origin: Path
    """The index, file or directory to name when a tensor is nowhere."""
    entries: dict[str, TensorEntry] = field(default_factory=dict[str, TensorEntry])
    files: dict[str, Path] = field(default_factory=dict[str, Path])
    """The file of each tensor."""
    _handles: dict[Path, Any] = field(default_factory=dict[Path, Any])

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
        return self._read(name, None)

    def read_row(self, name: str, index: int) -> Tensor:
        """Return row `index` of the tensor `name` along its first dimension, without touching the others."""
        num_rows = self.entries[name].shape[0]
        assert 0 <= index < num_rows, f"{name} has {num_rows} rows, and none with index {index}"
        return self._read(name, index)

    def _read(self, name: str, index: int | None) -> Tensor:
        file = self.files[name]
        try:
            if file not in self._handles:
                self._handles[file] = safe_open(file, framework="pt", device="cpu")
            handle = self._handles[file]
            value = handle.get_tensor(name) if index is None else handle.get_slice(name)[index]
        except (SafetensorError, OSError) as error:
            raise CheckpointDamaged(file, name, f"cannot be read: {error}") from error
        return cast("Tensor", value)
