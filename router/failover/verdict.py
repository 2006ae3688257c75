"""What a run under a fault came to: each answer compared with the undisturbed one, and how long streams stood still."""

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from router.failover.answers import Answer

SOON_S = 1.0
"""Within which a client must hear that its connection's process has died."""


@dataclass(slots=True)
class Verdict:
    """One row of the report."""

    fault: str
    num_runs: int = 0
    num_strikes: int = 0
    same: int = 0
    changed: int = 0
    """Whole answers with another token, logprob, call or finish reason."""
    failed: int = 0
    """Answers that ended with an error, or never."""
    same_on_retry: int = 0
    """Of the failed: as the undisturbed answer when asked again. Asked only if the connection's process was struck."""
    late_ends: int = 0
    """Of the failed: the client heard later than `SOON_S` after the strike."""
    too_late: int = 0
    """Runs that had ended when the blow fell: they prove nothing."""
    stalls_s: list[float] = field(default_factory=list[float])
    errors: list[str] = field(default_factory=list[str])

    def take(self, answers: Sequence[Answer], control: Sequence[Answer], struck_s: float) -> list[int]:
        """Count a run's answers; return the places of those that failed."""
        failed: list[int] = []
        self.num_runs += 1
        self.too_late += all(answer.ended_s < struck_s for answer in answers)
        for place, (answer, expected) in enumerate(zip(answers, control, strict=True)):
            if answer.error is not None:
                failed.append(place)
                self.late_ends += answer.ended_s - struck_s > SOON_S
                self.errors.append(answer.error)
            elif answer.choices == expected.choices:
                self.same += 1
                self.stalls_s += stalls_s(answer, expected, struck_s)
            else:
                self.changed += 1
        self.failed += len(failed)
        return failed

    def to_row(self) -> dict[str, object]:
        """Return what is written as JSON: counts, and the stalls' percentiles in ms."""
        row: dict[str, object] = {key: value for key, value in asdict(self).items() if key != "stalls_s"}
        row["errors"] = sorted(set(self.errors))[:3]
        return {**row, "stall_p50_ms": in_ms(self.stalls_s, 0.5), "stall_p99_ms": in_ms(self.stalls_s, 0.99)}


def gaps_s(arrivals_s: Sequence[float]) -> list[float]:
    """Return the waits between successive pieces of a stream."""
    return [later - sooner for sooner, later in itertools.pairwise(arrivals_s)]


def stalls_s(answer: Answer, control: Answer, struck_s: float) -> list[float]:
    """Return a stream's longest gap that ended after the strike, less the undisturbed stream's median gap.

    Nothing for a stream that had ended, or had not begun; else one number, at least 0.
    """
    pairs = itertools.pairwise(answer.arrivals_s)
    after = [later - sooner for sooner, later in pairs if later >= struck_s]
    usual = gaps_s(control.arrivals_s)
    return [max(0.0, max(after) - statistics.median(usual))] if after and usual else []


def in_ms(durations_s: Sequence[float], share: float) -> float | None:
    """Return a percentile by rank, in ms: of few durations, p99 is the longest. None of none."""
    if not durations_s:
        return None
    return round(1000 * sorted(durations_s)[math.ceil(share * len(durations_s)) - 1], 1)
