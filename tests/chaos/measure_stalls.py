"""How long streams stand still when an expert worker is lost: `python -m tests.chaos.measure_stalls [REPETITIONS]`.

Eighteen mixed sequences run on the tiny model; a worker is struck in flight, midway. The stall is the longest gap
between two tokens of any stream around the strike, less the median gap of undisturbed runs, which are interleaved.
Prints one JSON row for each way to lose a worker.
"""

import itertools
import json
import os
import statistics
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cluster.config import ExpertsSection
from tests.chaos.arena import Arena, arena
from tests.chaos.mixed_sequences import Outcome
from tests.chaos.sabotage import Fault, Point
from tests.cluster.experts.hand import until


@dataclass(frozen=True)
class Case:
    """One way to lose a worker, and who rescues."""

    name: str
    experts: ExpertsSection
    is_kill: bool = True
    is_made_anew: bool = False
    """Whether the worker is started again at once: nobody else can answer."""


CASES = (
    Case("killed, a copy elsewhere", ExpertsSection(num_workers=4, copies=2)),
    Case("hung, a copy elsewhere", ExpertsSection(num_workers=4, copies=2), is_kill=False),
    Case("killed, no copy, fallback", ExpertsSection(num_workers=4, copies=1)),
    Case("hung, no copy, fallback", ExpertsSection(num_workers=4, copies=1), is_kill=False),
    Case("killed, no copy, no fallback", ExpertsSection(num_workers=4, copies=1, fallback_bytes=0), is_made_anew=True),
)


def gaps_s(outcome: Outcome) -> list[float]:
    """Return the waits between successive tokens of all streams."""
    return [later - sooner for times in outcome.arrivals_s.values() for sooner, later in itertools.pairwise(times)]


def gap_around_s(outcome: Outcome, at_s: float) -> float:
    """Return the longest gap of any stream that `at_s` lies in."""
    pairs = (pair for times in outcome.arrivals_s.values() for pair in itertools.pairwise(times))
    return max(later - sooner for sooner, later in pairs if sooner <= at_s <= later)


def stall_s(running: Arena, case: Case, at_send: int) -> tuple[float, list[float]]:
    """Return the stall of one strike, and the gaps of the undisturbed run before it."""
    control = running.run()
    fault = Fault(at_send, Point.IN_FLIGHT, case.is_kill, hang_sends=60)
    maker = threading.Thread(target=make_anew, args=[running])
    if case.is_made_anew:
        maker.start()
    struck = running.run((fault,))
    if case.is_made_anew:
        maker.join()
    (at_s,) = running.saboteur.struck_s
    assert struck.traces == control.traces
    running.mend()
    return gap_around_s(struck, at_s) - statistics.median(gaps_s(control)), gaps_s(control)


def make_anew(running: Arena) -> None:
    """Start the next worker that is killed again, as a supervisor does."""
    saboteur, started_s = running.saboteur, time.monotonic()
    until(lambda: saboteur.struck_s and saboteur.struck_s[-1] > started_s, timeout_s=60.0)
    running.cluster.restart(saboteur.struck[-1][1])


def measure(case: Case, num_repetitions: int) -> dict[str, object]:
    """Return the row of a case."""
    stalls: list[float] = []
    control: list[float] = []
    with arena(case.experts) as running:
        running.run()
        for repetition in range(num_repetitions):
            stall, gaps = stall_s(running, case, 80 + 7 * repetition)
            stalls.append(stall)
            control += gaps
    return {
        "case": case.name,
        "num_strikes": num_repetitions,
        "stall_median_ms": round(1000 * statistics.median(stalls), 1),
        "stall_max_ms": round(1000 * max(stalls), 1),
        "control_gap_median_ms": round(1000 * statistics.median(control), 1),
        "control_gap_p99_ms": round(1000 * float(np.percentile(control, 99)), 1),
    }


def hardware() -> dict[str, object]:
    """Return what the figures depend on."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
    return {"cpu": model, "num_cpus": os.cpu_count(), "load_average": os.getloadavg()[0]}


def main() -> None:
    """Measure all cases."""
    num_repetitions = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    for case in CASES:
        sys.stdout.write(json.dumps(measure(case, num_repetitions) | hardware()) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
