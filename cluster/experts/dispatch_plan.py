"""The dispatch plan of one layer: which rows go to which worker, for which experts. Pure, and no loop over rows.

Where a pair is computed never changes what comes out, so the plan is free to choose among copies: a small batch goes
to as few workers as possible, because each message costs more than its rows; a large one is balanced.
"""

import itertools
import sys
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cluster.experts.placement import NO_COPY, IntArray

BoolArray = npt.NDArray[np.bool_]

FEW_PAIRS = 16
"""Up to so many pairs, a further message costs more than the experts that it takes off another worker."""
EXPERT_COST_ROWS = 16
"""Reading one expert's weights costs about as much as computing so many rows with it."""


@dataclass(frozen=True, slots=True)
class WorkerPlan:
    """What one worker is asked to compute: R rows, each sent once, and P pairs of row and expert."""

    worker: int
    """Index into the placement's workers."""
    row_ids: IntArray
    """[R] ascending indices into the step's rows."""
    pair_rows: IntArray
    """[P] index into `row_ids` of each pair's row."""
    expert_ids: IntArray
    """[P] expert of each pair."""
    positions: IntArray
    """[P] ascending places of the pairs in the flattened [T*K] outputs."""


@dataclass(frozen=True, slots=True)
class DispatchPlan:
    """All messages of one layer, and the pairs that no reachable worker can compute."""

    sends: tuple[WorkerPlan, ...]
    unplaced: IntArray
    """[U] positions in [T*K]."""


def dispatch_plan(
    expert_ids: IntArray, copies: IntArray, num_workers: int, positions: IntArray | None = None
) -> DispatchPlan:
    """Plan the pairs at `positions` (ascending, by default all) of expert_ids [T, K].

    copies [E, C] holds the worker indices, below `num_workers`, of those copies of each expert that can be asked,
    filled up with NO_COPY. All pairs of one expert go to one worker.
    """
    num_chosen = expert_ids.shape[1]
    flat = expert_ids.reshape(-1)
    if positions is None:
        positions = np.arange(flat.shape[0])
    wanted = flat[positions]
    workers = choose_copies(np.bincount(wanted, minlength=copies.shape[0]), copies, num_workers)[wanted]
    order = np.argsort(workers, kind="stable")  # by worker, and by position within a worker
    by_worker = _SortedPairs(workers[order], positions[order], wanted[order], num_chosen)
    bounds = np.searchsorted(by_worker.workers, np.arange(num_workers + 1)).tolist()
    sends = [
        by_worker.plan(worker, start, end)
        for worker, (start, end) in enumerate(itertools.pairwise(bounds))
        if start < end
    ]
    return DispatchPlan(tuple(sends), by_worker.positions[: bounds[0]])


def plan_for_one(expert_ids: IntArray, positions: IntArray) -> WorkerPlan:
    """Return the plan of a worker, index 0, that computes all pairs at `positions` (ascending, at least one)."""
    assert positions.size, "nothing to plan"
    zeros = np.zeros((int(expert_ids.max()) + 1, 1), dtype=np.int64)
    (send,) = dispatch_plan(expert_ids, zeros, 1, positions).sends
    return send


class _SortedPairs:
    """All pairs of a plan, sorted by worker and position: a worker's part is a slice of each array."""

    def __init__(self, workers: IntArray, positions: IntArray, expert_ids: IntArray, num_chosen: int) -> None:
        self.workers = workers
        self.positions = positions
        self._expert_ids = expert_ids
        rows = positions // num_chosen  # ascending within a worker, because positions are
        is_new = np.ones(rows.shape[0], dtype=np.bool_)
        is_new[1:] = (rows[1:] != rows[:-1]) | (workers[1:] != workers[:-1])
        self._row_ids = rows[is_new]
        self._pair_rows = np.cumsum(is_new) - 1  # index into _row_ids

    def plan(self, worker: int, start: int, end: int) -> WorkerPlan:
        """Return the plan of the worker whose pairs these are."""
        first, last = int(self._pair_rows[start]), int(self._pair_rows[end - 1])
        return WorkerPlan(
            worker,
            self._row_ids[first : last + 1],
            self._pair_rows[start:end] - first,
            self._expert_ids[start:end],
            self.positions[start:end],
        )


def reachable(copies: IntArray, is_available: BoolArray) -> IntArray:
    """Return the copies [..., C] on workers that are available [W], the others replaced by NO_COPY."""
    return np.where((copies != NO_COPY) & is_available[copies], copies, NO_COPY)


def choose_copies(num_rows: IntArray, copies: IntArray, num_workers: int) -> IntArray:
    """Return [E]: the worker that computes each expert, NO_COPY where none can or nothing is asked.

    num_rows [E] counts the rows of each expert in this layer.
    """
    active = np.flatnonzero(num_rows)
    chosen = np.full(num_rows.shape[0], NO_COPY, dtype=np.int64)
    if copies.shape[1] == 1:
        chosen[active] = copies[active, 0]
    elif int(num_rows.sum()) <= FEW_PAIRS:
        _cover(active, copies[active], num_workers, chosen)
    else:
        _balance(active, copies[active], num_rows[active], chosen)
    return chosen


def _cover(active: IntArray, copies: IntArray, num_workers: int, chosen: IntArray) -> None:
    """Give each active expert a worker, again and again the one that covers most of those left."""
    holds = (copies[:, :, None] == np.arange(num_workers)).any(axis=1)  # [A, W]
    left = holds.any(axis=1)
    while left.any():
        best = int(np.argmax(holds[left].sum(axis=0)))
        covered = left & holds[:, best]
        chosen[active[covered]] = best
        left &= ~covered


def _balance(active: IntArray, copies: IntArray, num_rows: IntArray, chosen: IntArray) -> None:
    """Give each active expert a worker, the one with most rows first, each time the copy with the least to do."""
    by_rows = np.argsort(-num_rows, kind="stable")
    load: dict[int, int] = {NO_COPY: sys.maxsize}  # so that it is the last choice
    workers: list[int] = []
    for holders, rows in zip(copies[by_rows].tolist(), num_rows[by_rows].tolist(), strict=True):
        best = min(holders, key=lambda worker: load.get(worker, 0))
        load[best] = load.get(best, 0) + rows + EXPERT_COST_ROWS
        workers.append(best)
    chosen[active[by_rows]] = workers
