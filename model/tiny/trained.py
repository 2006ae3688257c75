"""What the training leaves and `pack` packs: the used rows of both tables, and the body's weights."""

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Trained:
    """Weights of a trained model, as they are between two steps."""

    ids: Tensor
    """[R] i32: token ids of the rows."""
    is_copied: Tensor
    """[R] bool: of rows that are only ever copied."""
    embedding: Tensor
    """[R + 1, H] f32; the last row is the one that all other ids share."""
    head: Tensor
    """[R + 1, H] f32."""
    body: dict[str, Tensor]

    def save(self, path: Path) -> None:
        """Write a file that `load` reads."""
        torch.save(asdict(self), path)


def load(path: Path) -> Trained:
    """Return what `save` wrote."""
    return Trained(**torch.load(path))


def mean_of(one: Trained, other: Trained) -> Trained:
    """Return the mean of two models that have the same rows."""

    def mean(first: Tensor, second: Tensor) -> Tensor:
        return (first + second) / 2

    return Trained(
        one.ids,
        one.is_copied,
        mean(one.embedding, other.embedding),
        mean(one.head, other.head),
        {name: mean(weights, other.body[name]) for name, weights in one.body.items()},
    )
