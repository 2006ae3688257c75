"""LayerWork: one layer's input, held until every pair has been answered, and the outputs as far as they are there."""

import numpy as np
import torch
from torch import Tensor

from cluster.experts.dispatch_events import Submit
from cluster.experts.messages import ByteRows, byte_rows
from cluster.experts.placement import IntArray, WorkerId


class LayerWork:
    """What a ticket stands for. Every output row is written once, at its own place, whoever answers first."""

    def __init__(self, submit: Submit, epoch: int, output_dtype: torch.dtype, deadline_s: float) -> None:
        """Hold the input of `submit`, which was planned at `epoch` and must be complete at `deadline_s`."""
        self.submit = submit
        self.epoch = epoch
        self.deadline_s = deadline_s
        self.late: dict[WorkerId, str] = {}
        """Workers not to be asked again for this layer, because they still may answer, with the reason."""
        self.failed: dict[WorkerId, str] = {}
        """Workers not to be asked again too soon, with the reason."""
        self.unplaced: IntArray = np.zeros(0, dtype=np.int64)
        """Positions in [T*K] that nobody can be asked for now."""
        num_pairs = submit.expert_ids.size
        self._is_filled = np.zeros(num_pairs, dtype=np.bool_)
        self._num_missing = num_pairs
        self._rows: ByteRows = byte_rows(submit.hidden.contiguous())
        self._outputs = torch.empty((num_pairs, submit.hidden.shape[1]), dtype=output_dtype)
        self._output_bytes: ByteRows = byte_rows(self._outputs)

    @property
    def is_complete(self) -> bool:
        """Say whether every pair has been answered."""
        return self._num_missing == 0

    @property
    def num_missing(self) -> int:
        """Return the pairs that have not been answered."""
        return self._num_missing

    def rows(self, row_ids: IntArray) -> ByteRows:
        """Return the input rows with these ascending ids as bytes; a view if they are all."""
        return self._rows if row_ids.shape[0] == self._rows.shape[0] else self._rows[row_ids]

    def missing(self, positions: IntArray) -> IntArray:
        """Return those of `positions` that have not been answered."""
        return positions[~self._is_filled[positions]]

    def fill(self, positions: IntArray, outputs: ByteRows) -> int:
        """Write the rows of outputs that are still missing to their positions; return how many."""
        is_new = ~self._is_filled[positions]
        if not is_new.all():
            positions, outputs = positions[is_new], outputs[is_new]
        self._output_bytes[positions] = outputs
        self._is_filled[positions] = True
        self._num_missing -= positions.shape[0]
        return positions.shape[0]

    def outputs(self) -> Tensor:
        """Return [T, K, H]; only a complete layer has outputs."""
        assert self.is_complete, f"{self._num_missing} pairs of ticket {self.submit.ticket} are missing"
        return self._outputs.view(*self.submit.expert_ids.shape, self._outputs.shape[1])
