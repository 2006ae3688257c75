"""The mixture of experts as mathematics: gate, the one seam to the experts, and the one sum.

Placement changes where an expert runs, never what comes out: `Experts` answers one row per (token, expert) pair and
only `combine` sums them, in f32, in top-k order, rounded once (N3).
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from model.kernels.combine import combine
from model.kernels.linear import LinearWeight, linear
from model.kernels.top_k import top_k

__all__ = ["Experts", "Finished", "GateOutput", "HandExperts", "MovingExperts", "Pending", "TopKGate", "combine"]


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


@runtime_checkable
class MovingExperts(Protocol):
    """All experts, which may be elsewhere from one step to the next; where they are changes no bit (N2)."""

    def lend(self) -> AbstractContextManager[Experts]:
        """Lend the experts, where they are now, for one whole step."""
        ...


@dataclass(frozen=True, slots=True)
class Finished:
    """A Pending that was never pending: what local experts return."""

    outputs: Tensor

    def wait(self) -> Tensor:
        """Return the outputs [T, K, H]."""
        return self.outputs


class HandExperts:
    """Experts whose output can be worked out on paper: expert e returns its input times e + 1, in every layer."""

    def submit(self, layer: int, hidden: Tensor, gate: GateOutput) -> Finished:
        """Return hidden * (expert_id + 1) for each pair, in hidden's dtype."""
        return Finished(hidden[:, None] * (gate.expert_ids[:, :, None] + 1).to(hidden.dtype))


class TopKGate:
    """The gate of one layer: scores every expert and keeps the best K."""

    def __init__(self, weight: Tensor, bias: Tensor, num_chosen: int) -> None:
        """Take weight [E, H], bias [E] and K = `num_chosen`."""
        self.weight = LinearWeight.of(weight)
        self.bias = bias
        self._num_chosen = num_chosen

    def scores(self, hidden: Tensor) -> Tensor:
        """Return every expert's score [T, E] f32 for hidden [T, H]."""
        return linear(hidden, self.weight, self.bias)

    def choose(self, hidden: Tensor) -> GateOutput:
        """Return the choice for hidden [T, H]; the softmax runs over the chosen scores only."""
        return GateOutput(*top_k(self.scores(hidden), self._num_chosen))
