"""ReachableCopies: which copies of which experts a dispatcher can ask, by placement, open streams and experience."""

from collections.abc import Collection

import numpy as np

from cluster.experts.dispatch_events import Submit
from cluster.experts.dispatch_plan import DispatchPlan, dispatch_plan, reachable
from cluster.experts.placement import NO_COPY, IntArray, Placement, WorkerId


class ReachableCopies:
    """A placement, less the workers without a stream and the copies that turned out not to exist."""

    def __init__(self, placement: Placement) -> None:
        """Start with no stream open."""
        self.open: set[WorkerId] = set()
        self.use(placement)

    def use(self, placement: Placement) -> None:
        """Go by `placement` from now on, and believe all of it."""
        self.placement = placement
        self._index = {worker: index for index, worker in enumerate(placement.workers)}
        self._table = placement.copy_table()
        self._update()

    @property
    def is_lacking(self) -> bool:
        """Say whether some worker did not hold what the placement promises."""
        return self._is_lacking

    @property
    def is_complete(self) -> bool:
        """Say whether every expert of every layer has a copy that can be asked."""
        return bool((self._reachable != NO_COPY).any(axis=2).all())

    def opened(self, worker: WorkerId) -> None:
        """A worker can be asked; one that comes back may hold what it lacked."""
        self.open.add(worker)
        self._update()

    def broken(self, worker: WorkerId) -> None:
        """A worker can no longer be asked."""
        self.open.discard(worker)
        self._reachable = self._without(())

    def lacking(self, worker: WorkerId, layer: int, expert_ids: IntArray) -> None:
        """Do not ask `worker` for these experts until it, or a placement, comes anew."""
        self._is_lacking = True
        index = self._index.get(worker)
        if index is not None:
            copies = self._copies[layer]
            copies[expert_ids] = np.where(copies[expert_ids] == index, NO_COPY, copies[expert_ids])
            self._reachable = self._without(())

    def plan(self, submit: Submit, positions: IntArray | None, avoided: Collection[WorkerId]) -> DispatchPlan:
        """Plan the pairs at `positions` (None: all) of a layer without asking `avoided`."""
        copies = self._without(avoided) if avoided else self._reachable
        return dispatch_plan(submit.expert_ids, copies[submit.layer], len(self._index), positions)

    def _update(self) -> None:
        self._copies = self._table.copy()
        self._is_lacking = False
        self._reachable = self._without(())

    def _without(self, avoided: Collection[WorkerId]) -> IntArray:
        is_available = [worker in self.open and worker not in avoided for worker in self.placement.workers]
        return reachable(self._copies, np.array(is_available))
