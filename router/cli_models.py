"""Commands about checkpoints: inspect, fetch, and the models in the cache."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from router.cli_options import AsJson

if TYPE_CHECKING:
    from model.checkpoint.inspect import CheckpointReport

models = typer.Typer(help="List the models in the cache, or remove one.", invoke_without_command=True)
FETCH_EXAMPLES = """\
\b
Examples:
  expertmesh fetch openai/gpt-oss-20b
  HF_ENDPOINT=https://mirror.example expertmesh fetch openai/gpt-oss-20b
HF_TOKEN opens gated models; https_proxy is heeded; EXPERTMESH_CACHE names the
place. What was fetched is served by `expertmesh serve --model MODEL`."""


def inspect(
    checkpoint: Annotated[
        str,
        typer.Argument(
            metavar="CHECKPOINT",
            help="A directory, a GGUF file, `tiny`, or a fetched model such as openai/gpt-oss-20b.",
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Show what a checkpoint holds, its sizes by part, and whether it is whole (exit code 1 if not)."""
    from cluster.model_source import find_model
    from model.checkpoint.inspect import inspect_checkpoint

    report = inspect_checkpoint(find_model(checkpoint))
    if as_json:
        typer.echo(json.dumps(report.to_json(), indent=2))
    else:
        _print_report(report, Console())
    if not report.is_whole:
        raise typer.Exit(1)


def fetch(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model on the hub, such as openai/gpt-oss-20b.")],
    revision: Annotated[str, typer.Option(help="A branch, tag or commit of it.")] = "main",
) -> None:
    """Download a model into the cache: only what is served, resumed where it broke off, verified."""
    from router.fetch import fetch_model
    from router.fetch_progress import FetchBars
    from router.model_hub import ModelHub

    with FetchBars(Console(stderr=True)) as bars:
        path = fetch_model(model, revision, ModelHub(on_note=bars.note), on_progress=bars.show)
    typer.echo(path)


@models.callback()
def list_unless_told_otherwise(context: typer.Context, as_json: AsJson = False) -> None:
    """List the models in the cache, or remove one."""
    if context.invoked_subcommand is None:
        list_models(as_json)


@models.command("list")
def list_models(as_json: AsJson = False) -> None:
    """List the models in the cache."""
    from router.fetched_models import list_models as fetched_models

    found = fetched_models()
    if as_json:
        typer.echo(json.dumps([asdict(model) | {"path": str(model.path)} for model in found], indent=2))
        return
    if not found:
        typer.echo("No model has been fetched. The embedded model `tiny` is always there.")
        return
    table = Table("model", "size", "state", "path")
    for model in found:
        table.add_row(
            model.name, size_text(model.num_bytes), "whole" if model.is_whole else "unfinished", str(model.path)
        )
    Console().print(table)


@models.command()
def remove(model: Annotated[str, typer.Argument(metavar="MODEL", help="A model in the cache.")]) -> None:
    """Delete a model from the cache."""
    from router.fetched_models import remove_model

    typer.echo(f"{size_text(remove_model(model))} freed")


def size_text(num_bytes: int) -> str:
    """Return a number of bytes for people: 13,761,264,768 is 13.8 GB."""
    size = float(num_bytes)
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _print_report(report: "CheckpointReport", console: Console) -> None:
    config = report.config
    facts = Table(show_header=False, box=None)
    facts.add_row("path", str(report.path))
    facts.add_row("format", report.format)
    facts.add_row("parameters", f"{report.num_parameters:,}")
    facts.add_row(
        "layers", f"{config.num_layers}, each with {config.num_experts} experts, {config.experts_per_token} a token"
    )
    facts.add_row("context", f"{config.max_positions:,} tokens")
    facts.add_row("holds", f"{report.num_tensors:,} tensors in {report.num_files} files")
    console.print(facts)
    sizes = Table("part", "size", "bytes")
    for part, num_bytes in asdict(report.bytes_by_part).items():
        sizes.add_row(part.replace("_", " "), size_text(num_bytes), f"{num_bytes:,}")
    sizes.add_section()
    sizes.add_row("all tensors", size_text(report.tensor_bytes), f"{report.tensor_bytes:,}")
    console.print(sizes)
    for problem in report.problems:
        console.print(f"problem: {problem}", style="red", markup=False, soft_wrap=True)
    console.print("whole" if report.is_whole else "not whole", style="green" if report.is_whole else "red")
