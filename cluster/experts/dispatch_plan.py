"""The dispatch plan of one layer: which rows go to which worker, for which experts. Pure, and no loop over rows.

Where a pair is computed never changes what comes out, so the plan is free to choose among copies: a small batch goes
to as few workers as possible, because each message costs more than its rows; a large one is balanced.
"""

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
    expert_ids: IntArray, copies: IntArray, is_available: BoolArray, positions: IntArray | None = None
) -> DispatchPlan:
    """Plan the pairs at `positions` (ascending, by default all) of expert_ids [T, K].

    copies [E, C] holds the worker indices of each expert's copies, filled up with NO_COPY; is_available [W] says which
    workers can be asked. All pairs of one expert go to one worker.
    """
    num_chosen = expert_ids.shape[1]
    flat = expert_ids.reshape(-1)
    if positions is None:
        positions = np.arange(flat.shape[0])
    wanted = flat[positions]
    workers = choose_copies(np.bincount(wanted, minlength=copies.shape[0]), copies, is_available)[wanted]
    order = np.argsort(workers, kind="stable")  # by worker, and by position within a worker
    bounds = np.searchsorted(workers[order], np.arange(is_available.shape[0] + 1))
    sends = [
        _worker_plan(worker, positions[order[bounds[worker] : bounds[worker + 1]]], flat, num_chosen)
        for worker in range(is_available.shape[0])
        if bounds[worker] < bounds[worker + 1]
    ]
    return DispatchPlan(tuple(sends), positions[order[: bounds[0]]])


def _worker_plan(worker: int, positions: IntArray, flat: IntArray, num_chosen: int) -> WorkerPlan:
    rows = positions // num_chosen  # ascending, because positions are
    is_new = np.empty(rows.shape[0], dtype=np.bool_)
    is_new[0] = True
    np.not_equal(rows[1:], rows[:-1], out=is_new[1:])
    return WorkerPlan(worker, rows[is_new], np.cumsum(is_new) - 1, flat[positions], positions)


def choose_copies(num_rows: IntArray, copies: IntArray, is_available: BoolArray) -> IntArray:
    """Return [E]: the worker that computes each expert, NO_COPY where none can or nothing is asked.

    num_rows [E] counts the rows of each expert in this layer.
    """
    usable = np.where((copies != NO_COPY) & is_available[copies], copies, NO_COPY)
    active = np.flatnonzero((num_rows > 0) & (usable != NO_COPY).any(axis=1))
    chosen = np.full(num_rows.shape[0], NO_COPY, dtype=np.int64)
    if copies.shape[1] == 1:
        chosen[active] = usable[active, 0]
    elif int(num_rows.sum()) <= FEW_PAIRS:
        _cover(active, usable, is_available.shape[0], chosen)
    else:
        _balance(active, usable, num_rows, chosen)
    return chosen


def _cover(active: IntArray, usable: IntArray, num_workers: int, chosen: IntArray) -> None:
    """Give each active expert a worker, again and again the one that covers most of those left."""
    holds = (usable[active][:, :, None] == np.arange(num_workers)).any(axis=1)  # [A, W]
    left = np.ones(active.shape[0], dtype=np.bool_)
    while left.any():
        best = int(np.argmax(holds[left].sum(axis=0)))
        covered = left & holds[:, best]
        chosen[active[covered]] = best
        left &= ~covered


def _balance(active: IntArray, usable: IntArray, num_rows: IntArray, chosen: IntArray) -> None:
    """Give each active expert a worker, the one with most rows first, each time the copy with the least to do."""
    by_rows = active[np.argsort(-num_rows[active], kind="stable")]
    load: dict[int, int] = {NO_COPY: sys.maxsize}
    workers: list[int] = []
    for copies, rows in zip(usable[by_rows].tolist(), num_rows[by_rows].tolist(), strict=True):
        best = min(copies, key=lambda worker: load.get(worker, 0))
        load[best] = load.get(best, 0) + rows + EXPERT_COST_ROWS
        workers.append(best)
    chosen[by_rows] = workers
