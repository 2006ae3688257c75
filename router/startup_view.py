"""What `expertmesh serve` shows in the terminal: progress of each part while it starts, then one short table."""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType, TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from cluster.clock import MonotonicClock
from router.auth import is_loopback
from router.backend import ComponentProgress, Readiness
from router.config import Config
from router.startup_progress import RoleProgress, TimeLeft, parts_by_role, role_rows, time_left_text

LINE_INTERVAL_S = 10.0
"""How often a stage that goes on is told where there are no bars."""
NOBODY_EXPECTED: Mapping[str, int] = MappingProxyType({})


class StartupView:
    """A bar for each role in a terminal, lines where there is none. A context manager."""

    def __init__(self, console: Console, expected: Mapping[str, int] = NOBODY_EXPECTED) -> None:
        """Show on `console`; `expected` says how many parts each role will have."""
        self._console = console
        self._expected = expected
        self._clock = MonotonicClock()
        self._time_left = TimeLeft()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(complete_style="cyan", finished_style="green", pulse_style="cyan"),
            TextColumn("{task.fields[text]}", style="default"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}", style="cyan"),
            console=console,
            transient=True,
        )
        self._parts: dict[str, list[ComponentProgress]] = {}
        self._tasks: dict[str, TaskID] = {}
        self._lines: dict[str, tuple[float, str]] = {}
        self._stages: dict[str, str] = {}

    def __enter__(self) -> "StartupView":
        """Begin to show."""
        if self._console.is_terminal:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leave the terminal as it was."""
        if self._console.is_terminal:
            self._progress.stop()

    def show(self, components: Iterable[ComponentProgress]) -> None:
        """Show how far the parts have come; of a role that is not spoken of, the last that was said holds."""
        now_s = self._clock.now_s()
        self._parts |= parts_by_role(components)
        for row in role_rows(self._parts, self._expected):
            left = time_left_text(self._time_left.estimate_s(row, now_s))
            if self._console.is_terminal:
                self._show_bar(row, left)
            else:
                self._show_line(row, left, now_s)

    def _show_bar(self, row: RoleProgress, left: str) -> None:
        task = self._tasks.get(row.label)
        if task is None:
            task = self._tasks[row.label] = self._progress.add_task(row.label, total=None, text="", left="")
        # Without a total the bar moves to and fro: something is done that cannot be counted.
        total = None if row.fraction is None else 1.0
        self._progress.update(task, total=total, completed=row.fraction or 0.0, text=row.text, left=left)

    def _show_line(self, row: RoleProgress, left: str, now_s: float) -> None:
        """Print a role's line when its stage changes, and now and then while a stage goes on."""
        line = ", ".join(filter(None, [f"{row.label}: {row.text}", left]))
        printed_s, printed = self._lines.get(row.label, (float("-inf"), ""))
        is_new = self._stages.get(row.label) != row.stage or row.is_done
        if line != printed and (is_new or now_s - printed_s >= LINE_INTERVAL_S):
            self._lines[row.label] = (now_s, line)
            self._stages[row.label] = row.stage
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def print_summary(console: Console, config: Config, readiness: Readiness, startup_s: float) -> None:
    """Say that it is ready, then where it listens, what it serves, and where the experts are."""
    console.print(f"Ready after {startup_s:.1f} s. Ctrl-C ends it.", style="bold green", highlight=False)
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in summary_rows(config, readiness):
        table.add_row(name, value)
    console.print(table, highlight=False)


def summary_rows(config: Config, readiness: Readiness) -> Sequence[tuple[str, str]]:
    """Return the table's rows."""
    http, grpc = config.edge.http, config.edge.grpc
    fingerprint, kernels = readiness.fingerprint or "not known", readiness.kernel_backend or "not known"
    numerics = f"{config.numerics.mode}, fingerprint {fingerprint}, kernels {kernels}"
    rows = [
        ("HTTP", f"http://{_authority(http.host, http.port)}/v1"),
        ("gRPC", _authority(grpc.host, grpc.port)),
        ("model", config.model.served_name or config.model.path),
        ("numerics", numerics),
        ("experts", readiness.placement or ""),
    ]
    open_hosts = [name for name, host in (("HTTP", http.host), ("gRPC", grpc.host)) if not is_loopback(host)]
    if open_hosts:
        rows.append(("open to the network", " and ".join(open_hosts)))
    return rows


def _authority(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"
