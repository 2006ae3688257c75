"""PackedExperts: a checkpoint's experts in the CPU kernels' layout, in one memory-mapped file of the cache.

The first start packs each expert into the file, later ones map it: they read nothing of the checkpoint's experts, and
the system may drop and reread pages where memory is short. Processes on one machine share the file, each filling in
what it needs; an expert counts once its bytes are safely on disk and its mark after them.
"""

import fcntl
import hashlib
import json
import logging
import mmap
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from model.cache_dir import cache_dir
from model.checkpoint.checkpoint import Checkpoint
from model.checkpoint.weights import (
    AttentionWeights,
    EmbeddingWeights,
    ExpertWeights,
    GateWeights,
    HeadWeights,
    WeightSource,
)
from model.config import ModelConfig
from model.kernels.mxfp4_linear import LAYOUT_VERSION, Mxfp4Weight, packed_shape
from model.kernels.native_library import native_library
from model.mxfp4 import Mxfp4Tensor
from model.numerics import Numerics

LEAST_BYTES = 256_000_000
"""Experts smaller than this all together are packed anew at each start: it takes no time."""
SPARE_DISK_BYTES = 2_000_000_000
_MARKED = b"\x01"
_MANIFEST = "files.json"
_PAGE = mmap.ALLOCATIONGRANULARITY

logger = logging.getLogger(__name__)


class PackedExperts:
    """A `WeightSource` whose experts come packed; everything else is the checkpoint's."""

    def __init__(self, checkpoint: Checkpoint, folder: Path) -> None:
        """Map `folder`'s file, made if it is not there; raises OSError."""
        self.config: ModelConfig = checkpoint.config
        self._checkpoint = checkpoint
        self._record = _Record(checkpoint.config)
        num_experts = self.config.num_layers * self.config.num_experts
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._data = _mapped(folder / "experts", num_experts * self._record.num_bytes)
            self._marks = _mapped(folder / "marks", num_experts)
        self._fresh: list[int] = []

    def embedding(self) -> EmbeddingWeights:
        """Return the embedding."""
        return self._checkpoint.embedding()

    def attention(self, layer: int) -> AttentionWeights:
        """Return the attention of `layer`."""
        return self._checkpoint.attention(layer)

    def gate(self, layer: int) -> GateWeights:
        """Return the gate of `layer`."""
        return self._checkpoint.gate(layer)

    def head(self) -> HeadWeights:
        """Return the last norm and the unembedding."""
        return self._checkpoint.head()

    def expert(self, layer: int, expert: int) -> ExpertWeights:
        """Return one expert, its matrices packed: views of the mapped file. Raises what the checkpoint raises."""
        place = layer * self.config.num_experts + expert
        weights = self._record.view(self._data, place)
        if self._marks[place : place + 1] != _MARKED:
            self._record.fill(weights, self._checkpoint.expert(layer, expert))
            self._fresh.append(place)
        return weights

    def release(self) -> None:
        """Let go of the memory that reading the checkpoint took."""
        self._checkpoint.release()

    def keep(self) -> None:
        """Write what was packed to disk, and mark it as there for the next start."""
        if not self._fresh:
            return
        self._data.flush()
        for place in self._fresh:
            self._marks[place : place + 1] = _MARKED
        self._marks.flush()
        self._fresh.clear()


class _Record:
    """Where the parts of one expert lie in its stretch of the file."""

    def __init__(self, config: ModelConfig) -> None:
        hidden, inner = config.hidden_size, config.intermediate_size
        self._shapes = (packed_shape(2 * inner, hidden), packed_shape(hidden, inner))
        self._biases = (2 * inner, hidden)
        sizes = [_product(shape) for shape in self._shapes] + [4 * length for length in self._biases]
        self._starts = [sum(_aligned(size, 64) for size in sizes[:place]) for place in range(len(sizes))]
        self.num_bytes = _aligned(self._starts[-1] + sizes[-1], _PAGE)

    def view(self, data: mmap.mmap, place: int) -> ExpertWeights:
        start = place * self.num_bytes

        def tensor(part: int, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
            offset = start + self._starts[part]
            return torch.frombuffer(data, dtype=dtype, count=_product(shape), offset=offset).view(shape)

        mlp1, mlp2 = (Mxfp4Weight(tensor(part, torch.uint8, shape)) for part, shape in enumerate(self._shapes))
        biases = (tensor(2 + part, torch.float32, (length,)) for part, length in enumerate(self._biases))
        return ExpertWeights(mlp1, next(biases), mlp2, next(biases))

    @staticmethod
    def fill(packed: ExpertWeights, weights: ExpertWeights) -> None:
        for to, source in ((packed.mlp1, weights.mlp1), (packed.mlp2, weights.mlp2)):
            assert isinstance(to, Mxfp4Weight), "a record holds packed matrices"
            assert isinstance(source, Mxfp4Tensor), "only checkpoints with MXFP4 experts are packed"
            to.fill(source)
        packed.mlp1_bias.copy_(weights.mlp1_bias)
        packed.mlp2_bias.copy_(weights.mlp2_bias)


def packed_experts(source: WeightSource, numerics: Numerics, device: str) -> WeightSource:
    """Return `source` with its experts kept packed in the cache, or `source` itself where that is of no use.

    It is of use for the native CPU kernels and for MXFP4 checkpoints of some size, if the disk has room.
    """
    reads_mxfp4 = device == "cpu" and numerics.mode != "float32" and native_library() is not None
    if not (reads_mxfp4 and isinstance(source, Checkpoint) and source.format.are_experts_packed):
        return source
    config = source.config
    num_bytes = config.num_layers * config.num_experts * _Record(config).num_bytes
    if num_bytes < LEAST_BYTES:
        return source
    folder = cache_dir() / "packed" / _key(source.files())
    try:
        cache_dir().mkdir(parents=True, exist_ok=True)
        forget_orphans(cache_dir() / "packed")
        free_bytes = shutil.disk_usage(cache_dir()).free
        if not folder.exists() and free_bytes < num_bytes + SPARE_DISK_BYTES:
            sizes = free_bytes, num_bytes
            logger.warning("no packed experts are kept: %s has %d bytes free, they take %d", cache_dir(), *sizes)
            return source
        packed = PackedExperts(source, folder)
        _write_manifest(folder, source.files())
    except OSError as error:
        logger.warning("no packed experts are kept: %s", error)
        return source
    return packed


def forget_orphans(parent: Path) -> None:
    """Remove what was packed from files that are not there any more."""
    for manifest in parent.glob(f"*/{_MANIFEST}"):
        files = json.loads(manifest.read_text(encoding="utf-8"))
        if not all(Path(file).exists() for file in files):
            shutil.rmtree(manifest.parent, ignore_errors=True)


def _write_manifest(folder: Path, files: Sequence[Path]) -> None:
    """Say which files were packed; other processes find the whole of it or nothing."""
    with tempfile.NamedTemporaryFile("w", dir=folder, delete=False, encoding="utf-8") as file:
        json.dump([str(each) for each in files], file)
    Path(file.name).replace(folder / _MANIFEST)


def _key(files: Sequence[Path]) -> str:
    """Return what the packed bytes depend on: the checkpoint's files as they are now, and the layout."""
    parts = [f"layout {LAYOUT_VERSION}"]
    for file in files:
        status = file.stat()
        parts.append(f"{file.resolve()} {status.st_size} {status.st_mtime_ns}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:24]


def _mapped(path: Path, num_bytes: int) -> mmap.mmap:
    """Return the whole file mapped, made or lengthened with zeros."""
    with path.open("r+b" if path.exists() else "w+b") as file:
        if os.fstat(file.fileno()).st_size != num_bytes:
            file.truncate(num_bytes)
            if hasattr(os, "posix_fallocate"):  # a disk that is full must show here, not when a page is written
                os.posix_fallocate(file.fileno(), 0, num_bytes)
        return mmap.mmap(file.fileno(), num_bytes)


def _aligned(size: int, to: int) -> int:
    return -(-size // to) * to


def _product(shape: Sequence[int]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
