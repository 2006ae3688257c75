"""FetchBars: the progress of a fetch as two bars in the terminal, one for the bytes, one for their verification."""

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from router.file_fetch import FetchProgress, Stage


class FetchBars:
    """A context manager whose `show` is what `fetch_model` asks for as `on_progress`."""

    def __init__(self, console: Console) -> None:
        self._console = console
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        self._progress = Progress(*columns, TimeRemainingColumn(), console=console)
        stages: tuple[Stage, ...] = ("download", "verify")
        self._tasks = {stage: self._progress.add_task(stage, total=None) for stage in stages}

    def __enter__(self) -> "FetchBars":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress.live.is_started:
            self._progress.stop()

    def note(self, text: str) -> None:
        """Say in a line what is being tried."""
        self._console.print(text, style="dim", markup=False, highlight=False, soft_wrap=True)

    def show(self, progress: FetchProgress) -> None:
        """Move the bar of the progress's stage; bars appear with the first that is known."""
        self._progress.start()  # again is no harm
        self._progress.update(self._tasks[progress.stage], completed=progress.done_bytes, total=progress.total_bytes)
