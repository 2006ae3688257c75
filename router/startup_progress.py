"""What a start-up shows of each role: how far it has come, in words, and how long is left. Values only, no terminal.

role        parts of it                      row
experts     worker-0 … worker-3              loading experts, 24 of 128; 1 of 4 workers loaded
attention   attention-471b043f               loading dense weights, 3 of 6
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from router.backend import ComponentProgress

LABELS = {"worker": "experts"}
"""Roles whose name says too little to people."""
NOT_THERE = "starting"


@dataclass(frozen=True, slots=True)
class RoleProgress:
    """How far one role has come."""

    label: str
    stage: str
    """In a few words; it changes only when something else is being done."""
    fraction: float | None
    """0 .. 1 of the role's stage over all its parts; None while nothing can be counted."""
    counts: str = ""
    """What has been done of the stage, and by how many parts."""
    is_done: bool = False

    @property
    def text(self) -> str:
        """Return stage and counts."""
        return f"{self.stage}, {self.counts}" if self.counts else self.stage


def parts_by_role(components: Iterable[ComponentProgress]) -> dict[str, list[ComponentProgress]]:
    """Return the parts of each role; one that is alone is a role of its own."""
    parts: dict[str, list[ComponentProgress]] = {}
    for component in components:
        parts.setdefault(component.role or component.name, []).append(component)
    return parts


def role_rows(parts: Mapping[str, Sequence[ComponentProgress]], expected: Mapping[str, int]) -> list[RoleProgress]:
    """Return a row for each role that has parts, or of which `expected` names how many there will be."""
    roles = dict.fromkeys([*(role for role, number in expected.items() if number), *parts])
    return [_row(role, parts.get(role, ()), max(expected.get(role, 1), len(parts.get(role, ())))) for role in roles]


def seconds_left(fraction: float, first_fraction: float, elapsed_s: float) -> float | None:
    """Return how long a stage still takes if it goes on as it has; None while too little is known.

    A stage that came from 20 % to 60 % in 10 s has 40 % to go, at 4 % a second: 10 s.
    """
    if fraction - first_fraction < 0.02 or elapsed_s < 0.5:
        return None
    return elapsed_s * (1.0 - fraction) / (fraction - first_fraction)


class TimeLeft:
    """Estimates how long each role's present stage still takes."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self._began: dict[str, tuple[str, float, float]] = {}

    def estimate_s(self, row: RoleProgress, now_s: float) -> float | None:
        """Return the seconds that are left; None for a stage that cannot be counted, or has just begun."""
        if row.fraction is None or row.is_done:
            return None
        stage, began_s, first = self._began.get(row.label, ("", 0.0, 0.0))
        if stage != row.stage:
            began_s, first = now_s, row.fraction
            self._began[row.label] = (row.stage, began_s, first)
        return seconds_left(row.fraction, first, now_s - began_s)


def time_left_text(left_s: float | None) -> str:
    """Return the time left for people: `8 s left`, `2 min left`; nothing where it is not known."""
    if left_s is None:
        return ""
    return f"{left_s:.0f} s left" if left_s < 90 else f"{left_s / 60:.0f} min left"


def _row(role: str, parts: Sequence[ComponentProgress], num_expected: int) -> RoleProgress:
    label = LABELS.get(role, role)
    waiting = [part for part in parts if not part.is_ready]
    num_ready = len(parts) - len(waiting)
    whose = f"{num_ready} of {num_expected} {role}s" if num_expected > 1 else ""
    if num_ready == num_expected:
        return RoleProgress(label, parts[0].stage, 1.0, f"all {num_ready} {role}s" if whose else "", is_done=True)
    stage = waiting[0].stage if waiting else NOT_THERE
    of_stage = [part for part in waiting if part.stage == stage]
    total = sum(part.total for part in of_stage)
    counted = f"{sum(part.done for part in of_stage)} of {total}" if total else ""
    is_countable = bool(num_ready) or any(part.total or part.progress for part in waiting)
    fraction = sum(1.0 if part.is_ready else part.progress for part in parts) / num_expected
    counts = "; ".join(filter(None, [counted, f"{whose} ready" if whose else ""]))
    return RoleProgress(label, stage, fraction if is_countable else None, counts)
