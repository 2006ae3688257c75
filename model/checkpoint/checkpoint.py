"""Checkpoint: a model's weights on disk, read by canonical name whatever the format; one expert at a time by slices."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from model.checkpoint.layout import CheckpointFormat, Layout, StoredTensor
from model.checkpoint.store import Store
from model.checkpoint.weights import (
    AttentionWeights,
    EmbeddingWeights,
    ExpertMatrix,
    ExpertWeights,
    GateWeights,
    HeadWeights,
)
from model.config import ModelConfig
from model.mxfp4 import Mxfp4Tensor

DenseWeights = TypeVar("DenseWeights", EmbeddingWeights, AttentionWeights, GateWeights, HeadWeights)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """An open, checked checkpoint; a `WeightSource`.

    Tensors are views of mapped files: reading one expert costs the bytes of one expert, and only once they are used.
    """

    path: Path
    """The directory that holds the files, or the file."""
    format: CheckpointFormat
    config: ModelConfig
    layout: Layout
    store: Store

    def tensor(self, name: str) -> Tensor:
        """Return the tensor with the canonical `name` (see `weights`), stacked experts included; raises KeyError."""
        return _joined([self.store.read(stored.name) for stored in self.layout[name]])

    def embedding(self) -> EmbeddingWeights:
        """Return the embedding."""
        return EmbeddingWeights(self.tensor("embedding"))

    def attention(self, layer: int) -> AttentionWeights:
        """Return the attention of `layer`, queries, keys and values fused."""
        return self._dense(AttentionWeights, f"layers.{layer}.attention.")

    def gate(self, layer: int) -> GateWeights:
        """Return the gate of `layer`."""
        return self._dense(GateWeights, f"layers.{layer}.gate.")

    def head(self) -> HeadWeights:
        """Return the last norm and the unembedding."""
        return self._dense(HeadWeights, "head.")

    def expert(self, layer: int, expert: int) -> ExpertWeights:
        """Return one expert of `layer`; raises IndexError if there is none of that number."""
        self.check_expert(layer, expert)
        return ExpertWeights(
            mlp1=self._expert_matrix(layer, "mlp1", expert),
            mlp1_bias=self._expert_row(layer, "mlp1_bias", expert),
            mlp2=self._expert_matrix(layer, "mlp2", expert),
            mlp2_bias=self._expert_row(layer, "mlp2_bias", expert),
        )

    def release(self) -> None:
        """Let go of the memory that reading took; tensors returned so far stay good."""
        self.store.release()

    def files(self) -> tuple[Path, ...]:
        """Return the files that hold the tensors, in order."""
        return tuple(sorted(set(self.store.files.values())))

    def check_expert(self, layer: int, expert: int) -> None:
        """Raise IndexError if the model has no such expert."""
        if not (0 <= layer < self.config.num_layers and 0 <= expert < self.config.num_experts):
            raise IndexError(f"the model has no expert {expert} in layer {layer}")

    def stored_tensors(self) -> list[StoredTensor]:
        """Return every stored tensor of the layout."""
        return [stored for group in self.layout.values() for stored in group]

    def _dense(self, kind: type[DenseWeights], prefix: str) -> DenseWeights:
        return kind(*(self.tensor(prefix + field.name) for field in fields(kind)))

    def _expert_matrix(self, layer: int, matrix: str, expert: int) -> ExpertMatrix:
        if self.format.are_experts_packed:
            blocks = self._expert_row(layer, f"{matrix}_blocks", expert)
            return Mxfp4Tensor(blocks, self._expert_row(layer, f"{matrix}_scales", expert))
        weight = self._expert_row(layer, f"{matrix}_weight", expert)
        return weight.t().contiguous() if self.format.are_experts_transposed else weight

    def _expert_row(self, layer: int, field: str, expert: int) -> Tensor:
        (stored,) = self.layout[f"layers.{layer}.experts.{field}"]
        return self.store.read_row(stored.name, expert)


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    """Return tensors joined along their first dimension; a single one stays the view it is."""
    return tensors[0] if len(tensors) == 1 else torch.cat(list(tensors))
