"""The machine's limits, measured: how fast memory is read, and how fast float32 matrices are multiplied."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch

from model.kernels.native_library import native_library
from model.kernels.threads import num_threads, use_threads

Result = TypeVar("Result")
READ_BYTES = 1 << 30
"""Beyond every cache."""
MATMUL_SIZES = (512, 2880, 2880)
NUM_REPEATS = 5
PREFETCH_BYTES = 3072


@dataclass(frozen=True, slots=True)
class Roofline:
    """What this machine can do with the threads that compute."""

    read_bytes_per_s: float
    """The best of three ways to read."""
    read_kernel: str
    flops_per_s: float
    """float32, torch's own matrix product."""


def measure_roofline(read_bytes: int = READ_BYTES) -> Roofline:
    """Return the limits at the present number of threads; takes some seconds."""
    data = torch.ones(read_bytes // 4, dtype=torch.int32)
    ways: dict[str, Callable[[], object]] = {"torch sum": lambda: data.view(torch.float32).sum()}
    library = native_library()
    if library is not None:
        total = torch.zeros(1, dtype=torch.int64)
        for name, ahead in (("native", 0), ("native, prefetched", PREFETCH_BYTES)):
            ways[name] = lambda ahead=ahead: library.call(
                "em_read", data, data.nbytes, ahead, total, threads=num_threads()
            )
    times_s = {name: with_torch_threads(lambda way=way: median_s(way)) for name, way in ways.items()}
    best = min(times_s, key=lambda name: times_s[name])
    rows, inner, columns = MATMUL_SIZES
    left, right = torch.randn(rows, inner), torch.randn(inner, columns)
    product_s = with_torch_threads(lambda: median_s(lambda: left @ right))
    return Roofline(data.nbytes / times_s[best], best, 2.0 * rows * inner * columns / product_s)


def median_s(call: Callable[[], object], num_repeats: int = NUM_REPEATS) -> float:
    """Return the median duration of a call after one that warms up, in seconds."""
    return statistics.median(durations_s(call, num_repeats))


def durations_s(call: Callable[[], object], num_repeats: int) -> list[float]:
    """Return how long each of `num_repeats` calls takes, after one that warms up."""
    call()
    durations: list[float] = []
    for _ in range(num_repeats):
        started_s = time.perf_counter()
        call()
        durations.append(time.perf_counter() - started_s)
    return durations


def with_torch_threads(measure: Callable[[], Result]) -> Result:
    """Let torch have as many threads as the native kernels while its own speed is measured."""
    count = num_threads()
    torch.set_num_threads(count)
    try:
        return measure()
    finally:
        use_threads(count)
