"""Checkpoints on disk: found, checked, read one expert at a time, inspected, and written. One file a format."""

from model.checkpoint.checkpoint import Checkpoint
from model.checkpoint.inspect import CheckpointReport, inspect_checkpoint
from model.checkpoint.open import open_checkpoint
from model.checkpoint.random_weights import RandomWeights
from model.checkpoint.weights import (
    AttentionWeights,
    EmbeddingWeights,
    ExpertMatrix,
    ExpertWeights,
    GateWeights,
    HeadWeights,
    WeightSource,
)
from model.checkpoint.write import write_checkpoint, write_random_checkpoint

__all__ = [
    "AttentionWeights",
    "Checkpoint",
    "CheckpointReport",
    "EmbeddingWeights",
    "ExpertMatrix",
    "ExpertWeights",
    "GateWeights",
    "HeadWeights",
    "RandomWeights",
    "WeightSource",
    "inspect_checkpoint",
    "open_checkpoint",
    "write_checkpoint",
    "write_random_checkpoint",
]
