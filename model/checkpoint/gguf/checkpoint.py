"""GgufCheckpoint: a model in GGUF, whole or split into several files; found by any of their names."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from model.checkpoint.checkpoint import Checkpoint
from model.checkpoint.gguf.blocks import interleaved
from model.checkpoint.gguf.header import GgufHeader, read_gguf_header
from model.checkpoint.gguf.layout import GGUF, gguf_layout
from model.checkpoint.gguf.metadata import SizedByTensors, read_gguf_config
from model.checkpoint.gguf.store import GgufStore
from model.checkpoint.layout import CheckpointFormat, Layout
from model.checkpoint.weights import ExpertMatrix, ExpertWeights
from model.config import ModelConfig
from model.errors import CheckpointDamaged, CheckpointError, CheckpointMissing, ConfigError
from model.mxfp4 import Mxfp4Tensor, dequantize

MAX_PARTS = 1000
_MATRIX_PARTS = frozenset({"attention", "embedding", "unembedding"})

_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")


@dataclass(frozen=True, slots=True)
class GgufCheckpoint(Checkpoint):
    """An open GGUF model. Experts are converted as they are read: one costs its bytes in the file and one copy."""

    store: GgufStore

    def expert(self, layer: int, expert: int) -> ExpertWeights:
        """Return one expert of `layer`; raises IndexError if there is none of that number."""
        self.check_expert(layer, expert)
        return ExpertWeights(
            mlp1=self._matrix(layer, "mlp1", expert),
            mlp1_bias=self._bias(layer, "mlp1", expert),
            mlp2=self._matrix(layer, "mlp2", expert),
            mlp2_bias=self._bias(layer, "mlp2", expert),
        )

    def with_q8_matrices(self) -> "GgufCheckpoint":
        """Return the same model, its projections and head in Q8_0 blocks; the embedding too if the file has it so."""
        wanted = [each for each in self.stored_tensors() if each.part in _MATRIX_PARTS and len(each.shape) > 1]
        in_q8 = {each.name for each in wanted if each.part != "embedding" or self.store.is_q8(each.name)}
        return replace(self, store=replace(self.store, in_q8=frozenset(in_q8)))

    def _names(self, layer: int, matrix: str, kind: str) -> list[str]:
        """Return the stored tensors of a field of the experts: one, or gate and linear half."""
        prefix = f"layers.{layer}.experts."
        canonical = [prefix + f"{matrix}_{kind}"]
        if canonical[0] not in self.layout:
            canonical = [prefix + f"{half}_{kind}" for half in ("gate", "up")]
        return [self.layout[name][0].name for name in canonical]

    def _matrix(self, layer: int, matrix: str, expert: int) -> ExpertMatrix:
        names = self._names(layer, matrix, "weight")
        if not all(map(self.store.is_mxfp4, names)):
            return _one([self._values(name, expert) for name in names])
        halves = [self.store.read_mxfp4_row(name, expert) for name in names]
        return Mxfp4Tensor(_one([half.blocks for half in halves]), _one([half.scales for half in halves]))

    def _values(self, name: str, expert: int) -> Tensor:
        if self.store.is_mxfp4(name):
            return dequantize(self.store.read_mxfp4_row(name, expert), torch.bfloat16)
        return self.store.read_row(name, expert)

    def _bias(self, layer: int, matrix: str, expert: int) -> Tensor:
        return _one([self.store.read_row(name, expert) for name in self._names(layer, matrix, "bias")])


def survey_gguf(path: Path) -> tuple[GgufCheckpoint, tuple[CheckpointError, ...]]:
    """Return the model of which `path` is the file or one part, and every problem of its tensors.

    Raises CheckpointError if the first part has no readable header or says no configuration.
    """
    first, *others = parts = _parts(path)
    header = read_gguf_header(first)
    store = GgufStore(first)
    store.add_file(first, header.tensors)
    problems = [problem for file in others if (problem := _add_part(store, file)) is not None]
    if _integer(header, "split.count", len(parts)) != len(parts):
        names = f"its name says it is one of {len(parts)}"
        problems.append(CheckpointDamaged(first, None, f"split.count is {header.metadata['split.count']}, but {names}"))
    config = _config(first, header, store)
    layout = gguf_layout(config, store.entries)
    checkpoint = GgufCheckpoint(first, _format(layout, store), config, layout, store)
    found = [store.problem(stored) for stored in checkpoint.stored_tensors()]
    are_parts_missing = bool(problems)
    problems += [
        each for each in found if each is not None and not (are_parts_missing and isinstance(each, CheckpointMissing))
    ]
    return checkpoint, tuple(problems)


def gguf_in(directory: Path) -> Path | None:
    """Return the one model in GGUF that `directory` holds, or None; raises CheckpointMissing if it holds several."""
    models = {_parts(file)[0] for file in directory.glob("*.gguf")}
    if len(models) > 1:
        names = ", ".join(sorted(file.name for file in models))
        raise CheckpointMissing(directory, None, f"holds several models, name one of the files: {names}")
    return next(iter(models), None)


def _parts(path: Path) -> list[Path]:
    """Return the files of the model that `path` belongs to, in order."""
    match = _PART.fullmatch(path.name)
    if match is None:
        return [path]
    stem, count = match["stem"], int(match["count"])
    if not 1 <= int(match["number"]) <= count <= MAX_PARTS:
        raise CheckpointDamaged(path, None, f"its name says it is part {match['number']} of {match['count']}")
    return [path.with_name(f"{stem}-{number:05d}-of-{count:05d}.gguf") for number in range(1, count + 1)]


def _add_part(store: GgufStore, file: Path) -> CheckpointError | None:
    try:
        store.add_file(file, read_gguf_header(file).tensors)
    except CheckpointError as error:
        return error
    return None


def _integer(header: GgufHeader, key: str, default: int) -> int:
    value = header.metadata.get(key, default)
    return value if isinstance(value, int) else -1


def _format(layout: Layout, store: GgufStore) -> CheckpointFormat:
    """Return GGUF, its experts packed only if every one of them is MXFP4."""
    experts = [stored.name for group in layout.values() for stored in group if stored.part == "expert_weights"]
    return replace(GGUF, are_experts_packed=all(name in store.entries and store.is_mxfp4(name) for name in experts))


def _config(file: Path, header: GgufHeader, store: GgufStore) -> ModelConfig:
    def dimension(name: str, axis: int) -> int | None:
        shape = store.entries[name].shape if name in store.entries else ()
        return shape[axis] if axis < len(shape) else None

    sizes = SizedByTensors(dimension("token_embd.weight", 0), dimension("blk.0.ffn_down_exps.weight", 2))
    try:
        return read_gguf_config(header.metadata, sizes)
    except ConfigError as error:
        raise CheckpointDamaged(file, None, f"metadata {error}") from error


def _one(halves: Sequence[Tensor]) -> Tensor:
    """Return the only tensor, or gate and linear half row by row."""
    return halves[0] if len(halves) == 1 else interleaved(*halves)
