"""Commands that measure: kernels and engine beside this machine's own limits."""

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from router.cli_edge import edge
from router.cli_failover import failover

if TYPE_CHECKING:
    from cluster.bench.engine import EngineWork
    from cluster.bench.roofline import Roofline
    from cluster.bench.rows import BenchRow
    from model.load import LoadProgress

bench = typer.Typer(help="Measure speed on this machine, and what clients see of failures.", no_args_is_help=True)
bench.command()(failover)
bench.command()(edge)

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
    mode: Annotated[list[str] | None, typer.Option(help="Numerics mode; with --against it may be repeated.")] = None,
    dense: Annotated[
        Literal["bfloat16", "float32", "q8_0"],
        typer.Option(help="Dense weights in memory; q8_0: 8-bit blocks, llama.cpp's Q8_0 on both sides."),
    ] = "bfloat16",
    against: Annotated[
        Literal["llama.cpp", "transformers", "torch"] | None,
        typer.Option(help="Measure this program too, turn by turn; torch: its own products and attention in our step."),
    ] = None,
    peer_python: Annotated[Path | None, typer.Option(help="The Python of the environment that has it.")] = None,
    peer_dtype: Annotated[
        Literal["float32", "bfloat16"], typer.Option(help="What transformers computes in.")
    ] = "float32",
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each program.")] = 5,
    models: Annotated[Path | None, typer.Option(help="Folder to keep the model files of --against in.")] = None,
    out: Out = None,
    allow_torch: AllowTorch = False,
) -> None:
    """Time the engine without a server: decode at several batch sizes, prefill at several lengths, load, memory.

    With --against, another program does the same work with the same weights.
    """
    console = Console(stderr=True)
    prompts = [512] if prompt is None else [number for number in prompt if number > 0]
    numerics = [{"mode": each, "dense_weights": dense} for each in mode or ["precise"]]
    roof = _prepare(threads, allow_torch, console)
    if against is None or against == "torch":
        prompts = [128, 512] if against == "torch" and prompt is None else prompts
        work = _engine_work(geometry, numerics[0], batch or [1, 4, 8, 16], prompts, steps)
        if against == "torch":
            _time_contract(work, rounds, layers, roof, out, console)
        else:
            _time_engine(work, layers, roof, out, console)
        return
    if against == "transformers" and dense == "q8_0":
        raise typer.BadParameter("transformers has no such weights on a CPU", param_hint="--dense")
    from cluster.bench.against import Against, AgainstWork, Peer
    from cluster.bench.model_files import ModelFiles

    file_dense = "q8_0" if dense == "q8_0" else "bf16"
    options = {"dtype": peer_dtype} if against == "transformers" else {}
    peer = Peer(against, peer_python, options)
    contest = AgainstWork(peer, numerics, batch or [1, 8], prompts, steps, rounds, threads)
    with tempfile.TemporaryDirectory(prefix="expertmesh-bench-") as scratch, console.status("Comparing") as status:
        files = ModelFiles(models or Path(scratch), geometry, layers, status.update, file_dense)
        comparison = Against(contest, files, status.update)
        comparison.run()
    title = f"Engine against {against}, {geometry}, {files.config.num_layers} layers"
    _tell(title, comparison.rows(roof), roof, out, console)


def _engine_work(
    geometry: str, numerics: dict[str, str], batches: list[int], prompts: list[int], steps: int
) -> "EngineWork":
    from cluster.bench.engine import EngineWork
    from cluster.config import AttentionSection, EngineSection, ModelSection, NumericsSection
    from cluster.standalone import StandaloneSections
    from model.kernels.threads import num_threads

    try:
        numerics_section = NumericsSection.model_validate(numerics)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--mode") from error
    sections = StandaloneSections(
        ModelSection(max_context_tokens=max([*prompts, steps + 256]) + 128),
        numerics_section,
        EngineSection(max_running_sequences=max(batches)),
        AttentionSection(num_threads=num_threads()),
    )
    return EngineWork(geometry, batches, prompts, steps, sections=sections)


def _time_engine(work: "EngineWork", layers: int | None, roof: "Roofline", out: Path | None, console: Console) -> None:
    from cluster.bench.engine import EngineBench
    from cluster.bench.geometry import open_geometry

    weights = open_geometry(work.geometry, layers)
    with _Loading(console) as loading:
        measured = EngineBench(weights, work, loading.show)
    with measured:
        _tell(f"Engine, {work.geometry}, {weights.config.num_layers} layers", measured.rows(roof), roof, out, console)


def _time_contract(
    work: "EngineWork", rounds: int, layers: int | None, roof: "Roofline", out: Path | None, console: Console
) -> None:
    import torch

    from cluster.bench.contract import Contract, ContractWork
    from cluster.bench.engine import EngineBench
    from cluster.bench.geometry import open_geometry
    from model.kernels.native_library import native_library

    section = work.sections.numerics
    if native_library() is None or section.mode != "precise" or section.dense_weights == "q8_0":
        raise typer.BadParameter(
            "torch is compared with the native kernels, mode precise and dense weights that torch has too",
            param_hint="--against",
        )
    weights = open_geometry(work.geometry, layers)
    dtype = torch.float32 if section.dense_weights == "float32" else torch.bfloat16
    wanted = ContractWork(work.geometry, work.batches, work.prompts, work.num_steps, rounds, dtype)
    with _Loading(console) as loading:
        measured = EngineBench(weights, work, loading.show)
    with measured, console.status("Measuring") as status:
        contract = Contract(measured, weights.config, wanted, status.update)
        contract.run()
    title = f"Cost of the exactness contract, {work.geometry}, {weights.config.num_layers} layers"
    _tell(title, contract.rows(roof), roof, out, console)


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
    table = Table("", "median", "p99", "tokens/s", "of the limit", "ratio", "cost", "peak GB")
    for row in done:
        share = "" if row.roofline_share is None else f"{100 * row.roofline_share:.0f} % of {row.bound}"
        times = (f"{seconds * 1e3:.2f} ms" for seconds in (row.timing.median_s, row.timing.p99_s))
        rest = (str(row.facts.get(key, "")) for key in ("ratio", "cost", "peak_gb"))
        table.add_row(label(row), *times, str(row.facts.get("tokens_per_s", "")), share, *rest)
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
