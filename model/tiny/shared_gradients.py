"""Gradients of several processes, averaged in shared memory.

So the training uses two cores, and no thread waits for another within an operation.
"""

from collections.abc import Sequence
from multiprocessing import get_context

import torch
from torch import Tensor, nn

PATIENCE_S = 600
"""A process that waits longer for the others ends with an error: one of them must have died."""


class SharedGradients:
    """A row of memory for the gradients of each process, and the two points of a step at which they meet."""

    def __init__(self, num_processes: int, parameters: Sequence[nn.Parameter]) -> None:
        num_values = sum(one.numel() for one in parameters)
        self._rows = torch.zeros(num_processes, num_values).share_memory_()
        self._barrier = get_context("spawn").Barrier(num_processes, timeout=PATIENCE_S)

    def put(self, process: int, parameters: Sequence[nn.Parameter]) -> None:
        """Leave the gradients of `process` here, and return when every process has done so."""
        torch.cat([_gradient(one).flatten() for one in parameters], out=self._rows[process])
        self.meet()

    def mean_into(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace the parameters' gradients by the mean over processes, the same in every run."""
        parts = self._rows.mean(0).split([one.numel() for one in parameters])
        for one, part in zip(parameters, parts, strict=True):
            one.grad = part.view_as(one)

    def meet(self) -> None:
        """Return when every process is here."""
        self._barrier.wait()


def _gradient(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
