"""The command line `expertmesh`. Each command lives beside its subject; heavy imports wait until one runs."""

import importlib.metadata
import json
from typing import Annotated

import typer

from router.cli_bench import bench
from router.cli_chat import chat
from router.cli_convert import convert
from router.cli_errors import EXIT_CODES, CommandGroup
from router.cli_models import FETCH_EXAMPLES, fetch, inspect, models
from router.cli_options import AsJson
from router.cli_scale import scale
from router.cli_serve import SERVE_EXAMPLES, serve
from router.cli_status import status

app = typer.Typer(
    cls=CommandGroup,
    name="expertmesh",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command(short_help="Serve a model until Ctrl-C.", epilog=SERVE_EXAMPLES)(serve)
app.command(short_help="Talk to a running server.")(chat)
app.command(short_help="Show whether a server is ready, and what it does.")(status)
app.command(short_help="Add or remove expert workers of a running server.")(scale)
app.command(short_help="Show what a checkpoint holds, and whether it is whole.")(inspect)
app.command(short_help="Download a model into the cache.", epilog=FETCH_EXAMPLES)(fetch)
app.command(short_help="Write a checkpoint anew, as GGUF or as safetensors.")(convert)
app.add_typer(models, name="models")
app.add_typer(bench, name="bench")

_COMPONENTS = ("expertmesh", "torch", "ray", "grpcio", "openai-harmony")


def _print_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"expertmesh {_version_of('expertmesh') or 'not installed'}")
        raise typer.Exit


@app.callback()
def options(
    _: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    """Serve gpt-oss models with their experts split off from attention."""


@app.command()
def version(as_json: AsJson = False) -> None:
    """Show the version of Expertmesh and of what it runs on."""
    versions = {name: _version_of(name) for name in _COMPONENTS}
    if as_json:
        typer.echo(json.dumps(versions, indent=2))
        return
    for name, found in versions.items():
        typer.echo(f"{name} {found or 'not installed'}")


def main() -> None:
    """Run the command line."""
    app()


def _version_of(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
