"""SafetensorsWriter: one safetensors file written tensor by tensor, so that a model larger than memory can be."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from model.checkpoint.layout import StoredTensor
from model.checkpoint.safetensors_header import DTYPES, LENGTH_BYTES

_DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_ALIGNMENT_BYTES = 8


class SafetensorsWriter:
    """Writes a file with the tensors given, in that order; a context manager."""

    def __init__(self, file: Path, tensors: Sequence[StoredTensor]) -> None:
        self._tensors = list(tensors)
        self._stream = file.open("xb")
        self._stream.write(header_bytes(self._tensors))

    def __enter__(self) -> "SafetensorsWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()
        assert kind or not self._tensors, f"{[stored.name for stored in self._tensors]} were never written"

    def write(self, chunks: Iterable[Tensor]) -> int:
        """Write the next tensor, given in pieces along its first dimension; return its bytes."""
        stored = self._tensors.pop(0)
        num_bytes = 0
        for chunk in chunks:
            num_bytes += self._stream.write(_bytes(chunk, stored))
        assert num_bytes == stored.num_bytes, f"{stored.name} has {num_bytes} bytes, not {stored.num_bytes}"
        return num_bytes


def header_bytes(tensors: Iterable[StoredTensor]) -> bytes:
    """Return what a file with `tensors` begins with: the header's length and the header."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    start = 0
    for stored in tensors:
        end = start + stored.num_bytes
        dtype, shape = _DTYPE_NAMES[stored.dtype], list(stored.shape)
        entries[stored.name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
        start = end
    content = json.dumps(entries, separators=(",", ":")).encode()
    content += b" " * (-len(content) % _ALIGNMENT_BYTES)
    return len(content).to_bytes(LENGTH_BYTES, "little") + content


def _bytes(chunk: Tensor, stored: StoredTensor) -> memoryview:
    values = chunk.to(stored.dtype)
    if chunk.dtype != stored.dtype and not torch.equal(values.to(chunk.dtype), chunk):
        raise ValueError(f"{stored.name} cannot be stored as {stored.dtype} without rounding")
    return values.contiguous().reshape(-1).view(torch.uint8).numpy().data
