"""Whether something grows: pure functions of what was counted at rest, time after time."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.chaos.census import LOG_MONITOR

BLOCKS = "KV blocks in use"
MIN_SAMPLES = 6
"""Of fewer, only what must be nothing at rest can be judged: the first third warms up."""


@dataclass(frozen=True, slots=True)
class Limit:
    """By how much the last third may surpass the middle one: so much, and a share of it."""

    amount: float
    share: float = 0.0


_LIMITS = {
    "memory": Limit(8.0, 0.05),
    "shared memory": Limit(4.0),
    "files": Limit(8.0, 0.05),
    "ports": Limit(2.0),
    "processes": Limit(1.0),
    "ended children": Limit(1.0),
    # It opens the logs of whoever is started anew, and closes them all when there are 200.
    f"files, {LOG_MONITOR}": Limit(200.0),
}
"""By a figure's name or the first word of it. Memory in MiB: interpreters that start anew differ by a few."""


@dataclass(frozen=True, slots=True)
class Trend:
    """How one figure went: medians of the thirds of its samples, and whether that is too much."""

    name: str
    first: float
    middle: float
    last: float
    most: float
    is_growing: bool


def trends(samples: Sequence[Mapping[str, float]]) -> list[Trend]:
    """Return every figure's trend, in the order of their names; a figure that a sample lacks was 0 then."""
    names = sorted({name for sample in samples for name in sample})
    return [_trend(name, [sample.get(name, 0.0) for sample in samples]) for name in names]


def _trend(name: str, series: Sequence[float]) -> Trend:
    third = max(1, len(series) // 3)
    first, last = statistics.median(series[:third]), statistics.median(series[-third:])
    middle = statistics.median(series[third:-third] or series)
    if name == BLOCKS:
        is_growing = any(series)
    else:
        limit = _LIMITS.get(name) or _LIMITS[name.split(",", 1)[0]]
        is_growing = len(series) >= MIN_SAMPLES and last - middle > limit.amount + limit.share * middle
    return Trend(name, first, middle, last, max(series), is_growing)
