"""Store: what a checkpoint needs of the files that hold its tensors, safetensors or GGUF."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from torch import Tensor

from model.checkpoint.layout import StoredTensor
from model.errors import CheckpointError


class StoreEntry(Protocol):
    """Where one tensor lies."""

    @property
    def num_bytes(self) -> int:
        """Return its bytes in the file."""
        ...


class Store(Protocol):
    """Tensors by stored name."""

    @property
    def entries(self) -> Mapping[str, StoreEntry]:
        """Return every tensor that is there, asked for or not."""
        ...

    @property
    def files(self) -> Mapping[str, Path]:
        """Return the file of each tensor."""
        ...

    def problem(self, stored: StoredTensor) -> CheckpointError | None:
        """Return why `stored` cannot be read as its layout says, or None if it can."""
        ...

    def read(self, name: str) -> Tensor:
        """Return the whole tensor `name`."""
        ...

    def read_row(self, name: str, index: int) -> Tensor:
        """Return row `index` of the tensor `name` along its first dimension, without touching the others."""
        ...

    def release(self) -> None:
        """Let go of all pages that were read; tensors returned so far stay good, and read them anew."""
        ...
