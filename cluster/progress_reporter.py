"""ProgressReporter: turns a load into reports of how far a process of the cluster has come."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from cluster.cluster_status import ComponentReport, Role

if TYPE_CHECKING:
    from model.load import LoadProgress

REPORT_INTERVAL_S = 0.25


class ProgressReporter:
    """Reports as one component, a few times a second at most."""

    def __init__(self, name: str, role: Role, send: Callable[[ComponentReport], None]) -> None:
        """Hand reports to `send`, which must not wait."""
        self._name = name
        self._role: Role = role
        self._send = send
        self._sent_at_s = 0.0
        self._serving: Callable[[], ComponentReport] | None = None

    def serves(self, report: Callable[[], ComponentReport]) -> None:
        """Tell of stages as details of `report()` from now on: who loads something more goes on serving meanwhile."""
        self._serving = report

    def loading(self, progress: "LoadProgress") -> None:
        """Report a load's progress; the last part of it always."""
        now_s = time.monotonic()
        if progress.done < progress.total and now_s - self._sent_at_s < REPORT_INTERVAL_S:
            return
        self._sent_at_s = now_s
        self.stage(f"loading {progress.what}", progress.done, progress.total)

    def stage(self, stage: str, done: int = 0, total: int = 0, detail: str = "") -> None:
        """Report a stage."""
        fresh = ComponentReport(self._name, self._role, stage, done, total, detail=detail)
        if self._serving is not None:
            now = self._serving()
            doing = f"{stage}, {done} of {total}" if total else stage
            fresh = replace(now, detail="; ".join(filter(None, (now.detail, doing, detail))))
        self._send(fresh)
