"""Commands that measure: kernels and engine beside this machine's own limits."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

if TYPE_CHECKING:
    from cluster.bench.roofline import Roofline
    from cluster.bench.rows import BenchRow
    from model.load import LoadProgress

bench = typer.Typer(help="Measure speed on this machine.", no_args_is_help=True)

Geometry = Annotated[str, typer.Option(help="gpt-oss-20b, gpt-oss-120b, `tiny`, or a checkpoint.")]
Layers = Annotated[int | None, typer.Option(help="Only the first so many layers of a published geometry.")]
Threads = Annotated[int, typer.Option(min=1, help="Compute threads.")]
Out = Annotated[Path | None, typer.Option(help="Append the rows here as JSON lines, with a picture beside it.")]
AllowTorch = Annotated[bool, typer.Option(help="Measure the torch twins if the native kernels are not there.")]


@bench.command()
def kernels(
    geometry: Geometry = "gpt-oss-20b", threads: Threads = 2, out: Out = None, allow_torch: AllowTorch = False
) -> None:
    """Time each CPU kernel at a model's shapes, and its share of the memory or compute limit."""
    from cluster.bench.geometry import open_geometry
    from cluster.bench.kernels import kernel_rows

    console = Console(stderr=True)
    roof = _prepare(threads, allow_torch, console)
    config = open_geometry(geometry, None).config
    _tell(f"Kernels, {geometry}", kernel_rows(config, roof), roof, out, console)


@bench.command()
def engine(  # noqa: PLR0913, PLR0917 - each is an option of the command
    geometry: Geometry = "gpt-oss-20b",
    layers: Layers = None,
    threads: Threads = 2,
    batch: Annotated[list[int] | None, typer.Option(help="Sequences decoded together; may be repeated.")] = None,
    prompt: Annotated[list[int] | None, typer.Option(help="Prompt tokens; may be repeated; 0 for none.")] = None,
    steps: Annotated[int, typer.Option(min=2, help="Decode steps that are timed.")] = 32,
    dense: Annotated[Literal["bfloat16", "float32"], typer.Option(help="Dense weights in memory.")] = "bfloat16",
    out: Out = None,
    allow_torch: AllowTorch = False,
) -> None:
    """Time the engine without a server: decode at several batch sizes, prefill at several lengths, load, memory."""
    from cluster.bench.engine import EngineBench, EngineWork
    from cluster.bench.geometry import open_geometry
    from cluster.config import AttentionSection, EngineSection, ModelSection, NumericsSection
    from cluster.standalone import StandaloneSections

    console = Console(stderr=True)
    roof = _prepare(threads, allow_torch, console)
    weights = open_geometry(geometry, layers)
    prompts = [512] if prompt is None else [number for number in prompt if number > 0]
    batches = batch or [1, 4, 8, 16]
    context = min(weights.config.max_positions, max([*prompts, steps + 256]) + 128)
    sections = StandaloneSections(
        ModelSection(max_context_tokens=context),
        NumericsSection(dense_weights=dense),
        EngineSection(max_running_sequences=max(batches)),
        AttentionSection(num_threads=threads),
    )
    work = EngineWork(geometry, batches, prompts, steps, sections=sections)
    with _Loading(console) as loading:
        measured = EngineBench(weights, work, loading.show)
    with measured:
        _tell(f"Engine, {geometry}, {weights.config.num_layers} layers", measured.rows(roof), roof, out, console)


def _prepare(threads: int, allow_torch: bool, console: Console) -> "Roofline":
    """Take the threads, refuse a fallback that nobody asked for, and measure the machine's limits."""
    from cluster.bench.roofline import measure_roofline
    from model.kernels.native_library import native_kernels
    from model.kernels.threads import use_threads

    native = native_kernels()
    if native.library is None and not allow_torch:
        raise typer.BadParameter(f"the native kernels are not in use: {native.reason}", param_hint="--allow-torch")
    use_threads(threads)
    with console.status("Measuring this machine's limits"):
        roof = measure_roofline()
    console.print(
        f"memory read {roof.read_bytes_per_s / 1e9:.1f} GB/s ({roof.read_kernel}), "
        f"float32 product {roof.flops_per_s / 1e9:.0f} GFLOP/s, {threads} threads"
    )
    return roof


def _tell(title: str, rows: "Iterable[BenchRow]", roof: "Roofline", out: Path | None, console: Console) -> None:
    """Print rows as they come, JSON lines on standard output, and leave JSON and picture where they are wanted."""
    from cluster.bench.chart import chart, label
    from cluster.bench.rows import describe_machine

    machine = describe_machine(roof)
    done: list[BenchRow] = []
    with console.status("Measuring"):
        for row in rows:
            done.append(row)
            typer.echo(row.to_json(machine))
    table = Table("", "median", "p99", "tokens/s", "of the limit")
    for row in done:
        share = "" if row.roofline_share is None else f"{100 * row.roofline_share:.0f} % of {row.bound}"
        times = (f"{seconds * 1e3:.2f} ms" for seconds in (row.timing.median_s, row.timing.p99_s))
        table.add_row(label(row), *times, str(row.facts.get("tokens_per_s", "")), share)
    console.print(table)
    if out is not None:
        with out.open("a", encoding="utf-8") as file:
            file.writelines(row.to_json(machine) + "\n" for row in done)
        out.with_suffix(".svg").write_text(chart(title, done), encoding="utf-8")


class _Loading:
    """Progress of a load on the terminal."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=console, transient=True
        )
        self._task = self._progress.add_task("loading", total=None)

    def __enter__(self) -> "_Loading":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, progress: "LoadProgress") -> None:
        """Show how far the load has come."""
        text = f"loading {progress.what}: {progress.done} of {progress.total}"
        self._progress.update(self._task, description=text)
