"""The mixture of experts as mathematics: gate, the one seam to the experts, and the one sum.

Placement changes where an expert runs, never what comes out: `Experts` answers one row per (token, expert) pair and
only `combine` sums them, in f32, in top-k order, rounded once (N3).
"""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True, slots=True)
class GateOutput:
    """The gate's choice for T tokens, best first; equal scores go to the lower expert id."""

    expert_ids: Tensor
    """[T, K] int64."""
    weights: Tensor
    """[T, K] f32, softmax over the K chosen scores."""


class Pending(Protocol):
    """Expert outputs under way."""

    def wait(self) -> Tensor:
        """Return [T, K, H] in the numerics mode's expert output dtype; row k belongs to `expert_ids[:, k]`."""
        ...


class Experts(Protocol):
    """All experts of all layers, wherever they are. The seam that makes the model distributed."""

    def submit(self, layer: int, hidden: Tensor, gate: GateOutput) -> Pending:
        """Start the experts of `layer` on `hidden` [T, H], which is already rounded to the expert input dtype."""
        ...


@dataclass(frozen=True, slots=True)
class Finished:
    """A Pending that was never pending: what local experts return."""

    outputs: Tensor

    def wait(self) -> Tensor:
        """Return the outputs [T, K, H]."""
        return self.outputs
