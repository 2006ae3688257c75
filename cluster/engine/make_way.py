"""Who makes way for a tenant of whom nothing runs. A pure function.

Turns are taken when a place is free; a tenant whose long sequences hold every place would make the others wait until
one of them ends. So the first in the queue, if its tenant runs nothing, gets the place of the youngest sequence of the
tenant who runs the most, as long as that one keeps another. It changes when tokens come, never which.
"""

from collections import Counter
from collections.abc import Sequence as Ordered

from cluster.engine.blocks import BlockCount, BlockGeometry
from cluster.engine.prefix import Cache
from cluster.engine.scheduler import StepLimits
from cluster.engine.sequence import Sequence


def who_makes_way(
    running: Ordered[Sequence],
    head: Sequence,
    free: BlockCount,
    geometry: BlockGeometry,
    limits: StepLimits,
    cache: Cache,
) -> Sequence | None:
    """Return which of `running`, ordered by rank, is preempted for `head`, the first that waits; None if nobody is."""
    num_running = Counter(sequence.request.tenant for sequence in running)
    if num_running[head.request.tenant] or _fits(len(running), head, free, geometry, limits, cache):
        return None
    candidates = [
        sequence
        for sequence in running
        if num_running[sequence.request.tenant] > 1 and sequence.request.priority >= head.request.priority
    ]
    return max(candidates, key=lambda sequence: (num_running[sequence.request.tenant], sequence.rank), default=None)


def _fits(
    num_running: int, head: Sequence, free: BlockCount, geometry: BlockGeometry, limits: StepLimits, cache: Cache
) -> bool:
    """Return whether there is a place for a sequence, and blocks for all that is known of it."""
    wanted = geometry.settled(head.num_known + 1).minus(cache.find(head).num_held)
    return num_running < limits.max_running_sequences and free.covers(wanted)
