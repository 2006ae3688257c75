"""GgufWriter: one GGUF file written tensor by tensor, so that a model larger than memory can be."""

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TypeAlias

import torch
from torch import Tensor

from model.checkpoint.gguf.block_types import BlockType
from model.checkpoint.gguf.header import (
    ARRAY,
    BOOL,
    DEFAULT_ALIGNMENT,
    FLOAT32,
    INT32,
    MAGIC,
    STRING,
    UINT32,
    GgufTensor,
)

VERSION = 3
WritableValue: TypeAlias = bool | int | float | str | Sequence[int] | Sequence[str]


@dataclass(frozen=True, slots=True)
class GgufPlan:
    """What a file will hold: everything but the tensors' bytes, which begin where `header` ends."""

    header: bytes
    tensors: tuple[GgufTensor, ...]

    @classmethod
    def of(
        cls, metadata: Mapping[str, WritableValue], tensors: Sequence[tuple[str, BlockType, tuple[int, ...]]]
    ) -> "GgufPlan":
        """Return the plan of a file with `metadata` and tensors of those names, types and shapes, in that order."""
        pairs = b"".join(_string(key) + _typed(value) for key, value in metadata.items())
        infos: list[bytes] = []
        placed: list[GgufTensor] = []
        offset = 0
        for name, block_type, shape in tensors:
            dimensions = struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
            infos.append(_string(name) + dimensions + struct.pack("<IQ", block_type.number, offset))
            placed.append(GgufTensor(name, block_type, shape, offset))
            offset += _aligned(placed[-1].num_bytes)
        beginning = MAGIC + struct.pack("<IQQ", VERSION, len(placed), len(metadata)) + pairs + b"".join(infos)
        header = beginning.ljust(_aligned(len(beginning)), b"\0")
        return cls(header, tuple(GgufTensor(t.name, t.block_type, t.shape, t.start + len(header)) for t in placed))

    @property
    def num_bytes(self) -> int:
        """Return the bytes of the whole file."""
        last = self.tensors[-1] if self.tensors else None
        return last.start + _aligned(last.num_bytes) if last else len(self.header)


class GgufWriter:
    """Writes the file of a plan, its tensors in order; a context manager."""

    def __init__(self, file: Path, plan: GgufPlan) -> None:
        self._tensors = list(plan.tensors)
        self._stream = file.open("xb")
        self._stream.write(plan.header)

    def __enter__(self) -> "GgufWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()
        assert kind or not self._tensors, f"{[tensor.name for tensor in self._tensors]} were never written"

    def write(self, pieces: Iterable[Tensor]) -> int:
        """Write the next tensor's bytes (u8), given in pieces along its first dimension; return how many they are."""
        tensor = self._tensors.pop(0)
        num_bytes = 0
        for piece in pieces:
            assert piece.dtype == torch.uint8, f"{tensor.name} is given as {piece.dtype}, not as bytes"
            num_bytes += self._stream.write(piece.contiguous().view(-1).numpy().data)
        assert num_bytes == tensor.num_bytes, f"{tensor.name} has {num_bytes} bytes, not {tensor.num_bytes}"
        self._stream.write(bytes(_aligned(num_bytes) - num_bytes))
        return num_bytes


def _aligned(num_bytes: int) -> int:
    return -(-num_bytes // DEFAULT_ALIGNMENT) * DEFAULT_ALIGNMENT


def _string(text: str) -> bytes:
    content = text.encode()
    return struct.pack("<Q", len(content)) + content


def _typed(value: WritableValue) -> bytes:
    """Return a value with its type before it: counts and ids as u32, as llama.cpp expects them, in arrays as i32."""
    if isinstance(value, bool):
        return struct.pack("<I?", BOOL, value)
    if isinstance(value, int):
        return struct.pack("<II", UINT32, value)
    if isinstance(value, float):
        return struct.pack("<If", FLOAT32, value)
    if isinstance(value, str):
        return struct.pack("<I", STRING) + _string(value)
    texts = [item for item in value if isinstance(item, str)]
    if texts:
        return struct.pack("<IIQ", ARRAY, STRING, len(texts)) + b"".join(map(_string, texts))
    return struct.pack(f"<IIQ{len(value)}i", ARRAY, INT32, len(value), *value)
