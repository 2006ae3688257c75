"""`expertmesh convert`: a checkpoint written anew in another format, checked before and after."""

import shutil
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from router.cli_errors import CliError

if TYPE_CHECKING:
    from model.checkpoint import Checkpoint

FREE_MARGIN_BYTES = 200_000_000
"""What the disk should keep; a GGUF file's vocabulary, 13 MB, comes out of it."""
GGUF_ENDING = ".gguf"
_CHECKPOINT_ENDINGS = {".json", ".safetensors"}

LayoutName = Literal["packed", "bf16", "original"]
DenseName = Literal["bf16", "q8_0"]
OnBytes = Callable[[int], None]


class ConversionRefused(CliError):
    """A checkpoint cannot be written at that place, or not in that format; the message says what to do."""


def convert(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A directory, a GGUF file, `tiny`, or a fetched model.")
    ],
    target: Annotated[
        Path,
        typer.Argument(metavar="TARGET", help="What to write: NAME.gguf, or a directory in Hugging Face's layout."),
    ],
    layout: Annotated[
        LayoutName | None, typer.Option(help="How a directory holds the experts; packed is MXFP4 as published.")
    ] = None,
    dense: Annotated[
        DenseName | None, typer.Option(help="How a GGUF file holds the matrices that are no experts; q8_0 rounds.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what is there, if it is a checkpoint.")] = False,
) -> None:
    """Convert a checkpoint to GGUF, which llama.cpp reads, or to Hugging Face's layout. MXFP4 and bf16 stay exact."""
    from cluster.model_source import open_model

    to_gguf = target.suffix == GGUF_ENDING
    if (layout if to_gguf else dense) is not None:
        wrong = "--layout is for directories" if to_gguf else f"--dense is for files whose name ends in {GGUF_ENDING}"
        raise typer.BadParameter(wrong)
    checkpoint = open_model(source)
    _check_target(target, checkpoint, force)
    try:
        if to_gguf:
            _to_gguf(checkpoint, target, dense or "bf16")
        else:
            _to_directory(checkpoint, target, layout or "packed")
    except ValueError as error:
        raise ConversionRefused(f"{source} cannot be converted: {error}") from error
    typer.echo(target)


def _to_gguf(checkpoint: "Checkpoint", target: Path, dense: DenseName) -> None:
    from model.checkpoint.gguf.write import gguf_bytes, write_gguf

    num_bytes = gguf_bytes(checkpoint.config, dense)
    _check_disk(target, num_bytes)
    _tell_of_rounding(checkpoint, to_mxfp4=True)
    with _progress(num_bytes) as on_bytes:
        write_gguf(target, checkpoint, dense, on_bytes, replace=True)


def _to_directory(checkpoint: "Checkpoint", target: Path, layout: LayoutName) -> None:
    from model.checkpoint import write_checkpoint

    num_bytes = checkpoint.config.checkpoint_bytes(packed=layout != "bf16")
    _check_disk(target, num_bytes)
    _tell_of_rounding(checkpoint, to_mxfp4=layout != "bf16")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as aside:
        with _progress(num_bytes) as on_bytes:
            written = write_checkpoint(Path(aside) / "new", checkpoint, layout, on_bytes=on_bytes)
        if target.exists():
            target.rename(Path(aside) / "old")
        written.rename(target)


def _check_target(target: Path, checkpoint: "Checkpoint", force: bool) -> None:
    """Refuse to replace the source, anything without --force, and with it what is no checkpoint."""
    from model.checkpoint.gguf.header import is_gguf

    if target.resolve() in {checkpoint.path.resolve(), *(file.resolve() for file in checkpoint.files())}:
        raise ConversionRefused(f"{target} is the source itself")
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not force:
        raise ConversionRefused(f"{target} exists; --force replaces it")
    if not (is_gguf(target) if target.suffix == GGUF_ENDING else _is_checkpoint_directory(target)):
        raise ConversionRefused(f"{target} is not what would be written there, and --force does not delete it")


def _is_checkpoint_directory(path: Path) -> bool:
    return (path / "config.json").is_file() and all(
        file.is_file() and file.suffix in _CHECKPOINT_ENDINGS for file in path.iterdir()
    )


def _check_disk(target: Path, num_bytes: int) -> None:
    there = next(parent for parent in target.absolute().parents if parent.exists())
    free = shutil.disk_usage(there).free
    if num_bytes + FREE_MARGIN_BYTES > free:
        raise ConversionRefused(
            f"{num_bytes / 1e9:.1f} GB are to be written, but the disk of {there} has {free / 1e9:.1f} GB free and "
            f"should keep {FREE_MARGIN_BYTES / 1e9:.1f}"
        )


def _tell_of_rounding(checkpoint: "Checkpoint", to_mxfp4: bool) -> None:
    if to_mxfp4 and not checkpoint.format.are_experts_packed:
        typer.echo("note: experts that are not MXFP4 are rounded to it", err=True)


@contextmanager
def _progress(total_bytes: int) -> Generator[OnBytes]:
    """Give what is told the bytes written, and show them as a bar on stderr."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    progress = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True))
    task = progress.add_task("convert", total=total_bytes)

    def on_bytes(num_bytes: int) -> None:
        progress.start()  # only now, so that what is refused at once leaves no bar; again is no harm
        progress.advance(task, num_bytes)

    try:
        yield on_bytes
    finally:
        if progress.live.is_started:
            progress.stop()
