"""Benchmark results as JSON rows: each says on what machine and at which commit it was measured."""

import json
import math
import platform
import statistics
import subprocess
from dataclasses import dataclass
from pathlib import Path

import torch

from cluster.bench.roofline import Roofline
from model.fingerprint import kernel_build
from model.kernels.threads import num_threads

Value = str | int | float | None


@dataclass(frozen=True, slots=True)
class Timing:
    """Durations of one thing done several times."""

    durations_s: tuple[float, ...]

    @property
    def median_s(self) -> float:
        """Return the median."""
        return statistics.median(self.durations_s)

    @property
    def p99_s(self) -> float:
        """Return the 99th percentile: of few durations, the longest."""
        ordered = sorted(self.durations_s)
        return ordered[math.ceil(0.99 * len(ordered)) - 1]


@dataclass(frozen=True, slots=True)
class BenchRow:
    """One measurement."""

    name: str
    facts: dict[str, Value]
    """What was measured: sizes, batch, bytes."""
    timing: Timing
    roofline_share: float | None
    """Of the limit that binds: bytes by read bandwidth, or operations by the matrix product's rate."""
    bound: str = ""
    """Which limit that is: `memory` or `compute`."""

    def to_json(self, machine: dict[str, Value]) -> str:
        """Return the row as one line of JSON."""
        share = None if self.roofline_share is None else round(self.roofline_share, 3)
        timing: dict[str, Value] = {
            "median_ms": round(self.timing.median_s * 1e3, 4),
            "p99_ms": round(self.timing.p99_s * 1e3, 4),
            "repeats": len(self.timing.durations_s),
        }
        return json.dumps(
            {"bench": self.name, **self.facts, **timing, "roofline": share, "bound": self.bound, **machine}
        )


def roofline_share(num_bytes: float, num_flops: float, seconds: float, roof: Roofline) -> tuple[float, str]:
    """Return the share of the binding limit that a piece of work reaches, and which limit binds."""
    memory_s, compute_s = num_bytes / roof.read_bytes_per_s, num_flops / roof.flops_per_s
    return (memory_s / seconds, "memory") if memory_s >= compute_s else (compute_s / seconds, "compute")


def describe_machine(roof: Roofline) -> dict[str, Value]:
    """Return what a reader must know of the machine and of the program that was measured."""
    return {
        "processor": processor_name(),
        "threads": num_threads(),
        "read_gb_per_s": round(roof.read_bytes_per_s / 1e9, 2),
        "read_kernel": roof.read_kernel,
        "matmul_gflop_per_s": round(roof.flops_per_s / 1e9, 1),
        "kernels": kernel_build("cpu"),
        "torch": torch.__version__,
        "commit": commit(),
    }


def processor_name() -> str:
    """Return the processor's name as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def commit() -> str | None:
    """Return the commit of the checkout that this runs from; None outside one."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=10"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
