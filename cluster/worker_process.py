"""An expert worker as a plain process: `python -m cluster.worker_process`, started by `cluster.launch`.

The order comes as one line of JSON on stdin, reports go as lines of JSON to stdout. The worker lives as long as stdin
is open: when the process at the other end dies, in whatever way, the pipe closes and the worker ends.
"""

import json
import os
import signal
import sys
import threading
from dataclasses import dataclass
from typing import Any, TextIO

from cluster.cluster_spec import ClusterSpec
from cluster.config import AttentionSection, EngineSection, ExpertsSection, ModelSection, NumericsSection
from cluster.experts.placement import Placement

_SECTIONS = {
    "model": ModelSection,
    "numerics": NumericsSection,
    "engine": EngineSection,
    "experts": ExpertsSection,
    "attention": AttentionSection,
}


@dataclass(frozen=True, slots=True)
class WorkerOrder:
    """Which worker a process is to be."""

    spec: ClusterSpec
    index: int
    secret: str
    placement: Placement | None = None
    """Where the experts are, if some were moved."""

    def to_json(self) -> str:
        """Return the order as one line of JSON."""
        sections = {name: getattr(self.spec, name).model_dump(mode="json") for name in _SECTIONS}
        placement = None if self.placement is None else self.placement.to_json()
        own = {"application": self.spec.application, "index": self.index, "secret": self.secret, "placement": placement}
        return json.dumps({**own, **sections})

    @classmethod
    def from_json(cls, line: str) -> "WorkerOrder":
        """Return the order that `to_json` wrote."""
        document: dict[str, Any] = json.loads(line)
        sections: dict[str, Any] = {
            name: section.model_validate_json(json.dumps(document[name])) for name, section in _SECTIONS.items()
        }
        moved = document["placement"]
        placement = None if moved is None else Placement.from_json(moved)
        spec = ClusterSpec(document["application"], **sections)
        return cls(spec, document["index"], document["secret"], placement)


def main() -> None:
    """Be the worker that stdin asks for, until stdin closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started us decides, through the pipe
    reports = _take_stdout()
    line = sys.stdin.readline()
    if not line:
        return
    threading.Thread(target=_end_with_stdin, name="life-line", daemon=True).start()
    order = WorkerOrder.from_json(line)
    _serve(order, reports)


def _serve(order: WorkerOrder, reports: TextIO) -> None:
    from cluster.expert_side import serve_share  # torch comes once the life-line is watched
    from cluster.experts.server import ServerOptions

    first, last = order.spec.experts.port_range
    try:
        served = serve_share(
            order.spec,
            order.index,
            ServerOptions(order.secret, port_range=(first, last)),
            lambda progress: _report(reports, what=progress.what, done=progress.done, total=progress.total),
            moved=order.placement,
        )
    except Exception as error:
        _report(reports, error=f"{type(error).__name__}: {error}")
        raise
    _report(reports, port=served.port, fingerprint=served.fingerprint)
    threading.Event().wait()


def _take_stdout() -> TextIO:
    """Keep stdout for reports; whatever libraries print goes to stderr."""
    reports = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return reports


def _report(reports: TextIO, **values: object) -> None:
    reports.write(json.dumps(values) + "\n")
    reports.flush()


def _end_with_stdin() -> None:
    sys.stdin.read()
    os._exit(0)  # nothing here outlives the process, and a computation under way has nobody to answer to


if __name__ == "__main__":
    main()
