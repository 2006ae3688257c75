"""What `expertmesh serve` shows in the terminal: progress of each part while it starts, then one short table."""

from collections.abc import Iterable, Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from router.auth import is_loopback
from router.backend import ComponentProgress, Readiness
from router.config import Config


class StartupView:
    """Progress bars in a terminal; one line a stage where there is none. A context manager."""

    def __init__(self, console: Console) -> None:
        """Show on `console`."""
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[stage]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}
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
        """Show how far the parts have come."""
        for component in components:
            if self._console.is_terminal:
                self._show_bar(component)
            elif self._stages.get(component.name) != component.stage:
                self._stages[component.name] = component.stage
                self._console.print(f"{component.name}: {component.stage}", markup=False, highlight=False)

    def _show_bar(self, component: ComponentProgress) -> None:
        task = self._tasks.get(component.name)
        if task is None:
            task = self._tasks[component.name] = self._progress.add_task(component.name, total=1.0, stage="")
        self._progress.update(task, completed=component.progress, stage=component.stage)


def print_summary(console: Console, config: Config, readiness: Readiness, startup_s: float) -> None:
    """Print where the server listens, what it serves, and where the experts are."""
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in summary_rows(config, readiness, startup_s):
        table.add_row(name, value)
    console.print(table, highlight=False)
    console.print("Ctrl-C ends it.", highlight=False)


def summary_rows(config: Config, readiness: Readiness, startup_s: float) -> Sequence[tuple[str, str]]:
    """Return the table's rows."""
    http, grpc = config.edge.http, config.edge.grpc
    numerics = f"{config.numerics.mode}, fingerprint {readiness.fingerprint}, kernels {readiness.kernel_backend}"
    rows = [
        ("HTTP", f"http://{_authority(http.host, http.port)}/v1"),
        ("gRPC", _authority(grpc.host, grpc.port)),
        ("model", config.model.served_name or config.model.path),
        ("numerics", numerics),
        ("experts", readiness.placement or ""),
        ("started in", f"{startup_s:.1f} s"),
    ]
    open_hosts = [name for name, host in (("HTTP", http.host), ("gRPC", grpc.host)) if not is_loopback(host)]
    if open_hosts:
        rows.append(("open to the network", " and ".join(open_hosts)))
    return rows


def _authority(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"
