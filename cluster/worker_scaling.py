"""WorkerScaling: how many expert workers there should be for the sequences there are. Without I/O or clock.

A number is asked for once the load has wanted more, or fewer, for a while without a break: more at the least, fewer at
the most that it wanted in that while, so that neither a peak nor a pause makes workers come and go.
"""

import math

from cluster.config import WorkerScalingSection


class WorkerScaling:
    """One application's policy. Not thread-safe: one thread or event loop owns it."""

    def __init__(self, section: WorkerScalingSection, copies: int) -> None:
        """Follow `section`; fewer workers than `copies` cannot hold them, so that the next fewer are none."""
        self._section = section
        self._copies = copies
        self._since_s: float | None = None
        self._was_more = False
        self._modest = 0
        """Of the numbers wanted meanwhile, the one nearest to what there is."""

    def needed(self, num_sequences: int) -> int:
        """Return how many workers so many sequences need, within the limits."""
        section = self._section
        if num_sequences == 0 and section.min_workers == 0:
            return 0
        wanted = math.ceil(num_sequences / section.target_sequences)
        return min(section.max_workers, max(section.min_workers, self._copies, wanted))

    def wanted(self, num_sequences: int, num_workers: int, now_s: float) -> int | None:
        """Return how many workers to ask for now, given those asked for last; None: leave it at these."""
        needed = self.needed(num_sequences)
        if needed == num_workers:
            self._since_s = None
            return None
        is_more = needed > num_workers
        if self._since_s is None or is_more != self._was_more:
            self._since_s, self._was_more, self._modest = now_s, is_more, needed
        self._modest = min(self._modest, needed) if is_more else max(self._modest, needed)
        delay_s = self._section.upscale_delay_s if is_more else self._section.downscale_delay_s
        if now_s - self._since_s < delay_s:
            return None
        self._since_s = None
        return self._modest
