"""`expertmesh bench edge`: what HTTP, parsing and streaming add to what the engine alone would take."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from router.config import Config
    from router.edge_bench.figures import Row

_COLUMNS = {
    "streams": "streams",
    "program": "program",
    "tokens/s": "tokens_per_s",
    "lost": "throughput_lost",
    "first ms": "first_ms",
    "added": "first_added_ms",
    "gap ms": "token_ms",
    "added ": "token_added_ms",
    "us/token": "cpu_us_per_token_added",
    "client's": "client_cpu_us_per_token",
}
"""Of the table: a head, and the key of a row; processor time is that which the edge adds, and the client's."""


def edge(  # noqa: PLR0913, PLR0917 - each is an option of the command
    preset: Annotated[str, typer.Argument(help="Preset or file: its model, numerics and engine.")] = "tiny-standalone",
    set_: Annotated[list[str] | None, typer.Option("--set", help="A field of its config, a.b=c; repeatable.")] = None,
    streams: Annotated[list[int] | None, typer.Option(min=1, help="Streams at once; may be repeated.")] = None,
    requests: Annotated[int, typer.Option(min=2, help="Requests of each stream, one after another.")] = 4,
    tokens: Annotated[int, typer.Option(min=2, help="Tokens of an answer, on average.")] = 64,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each program.")] = 5,
    url: Annotated[str | None, typer.Option(help="Ask this running server too, http://HOST:PORT.")] = None,
    out: Annotated[Path | None, typer.Option(help="Append the rows here as JSON, with a picture beside it.")] = None,
) -> None:
    """Give the same requests to an engine in this process, directly and over HTTP, in turns.

    The client is a process of its own that parses nothing while it reads; its processor time is told apart. Exit code
    1 if a text over HTTP is not what the engine said.
    """
    from router.errors import StartFailed

    console = Console(stderr=True)
    wanted = streams or [1, 32, 256]
    config = _config(preset, [f"engine.max_running_sequences={max(wanted)}", *(set_ or [])], max(wanted))
    try:
        rows = _measure(config, (wanted, requests, tokens, rounds), url, out, console)
    except StartFailed as error:
        console.print(f"error: {error}", markup=False)
        raise typer.Exit(1) from error
    table = Table(*_COLUMNS, box=None, padding=(0, 1))
    for row in rows:
        table.add_row(*(_cell(row.get(key)) for key in _COLUMNS.values()))
    console.print(table)
    if any(row["program"] == "edge" and not row["same_texts"] for row in rows):
        console.print("error: the edge's texts are not those of the engine")
        raise typer.Exit(1)


def _config(preset: str, settings: list[str], num_streams: int) -> "Config":
    from router.config import load_config
    from router.errors import ConfigInvalid

    try:
        config = load_config(preset, [*settings, f"edge.limits.max_running_requests={2 * num_streams}"])
    except ConfigInvalid as error:
        raise typer.BadParameter(str(error), param_hint="--set") from error
    return config


def _measure(
    config: "Config", work: tuple[list[int], int, int, int], url: str | None, out: Path | None, console: Console
) -> "list[Row]":
    from cluster.lasting import set_lasting_aside
    from cluster.standalone import Standalone, StandaloneSections
    from router.edge_bench.contest import EdgeBench
    from router.edge_bench.figures import machine, rows_of, to_json
    from router.edge_bench.load import Load
    from router.edge_bench.picture import picture
    from router.edge_bench.rig import EdgeRig

    streams, requests, tokens, rounds = work
    rows: list[Row] = []
    with console.status("loading") as status:
        sections = StandaloneSections(config.model, config.numerics, config.engine, config.attention)
        with EdgeRig(Standalone.load(sections), config) as rig:
            set_lasting_aside()  # as every server does that has loaded
            bench = EdgeBench(rig, rounds, status.update)
            bench.server = None if url is None else _server(url)
            for result in bench.run([Load.of(number, requests, tokens) for number in streams]):
                told = [to_json(row, machine()) for row in rows_of(result)]
                rows += rows_of(result)
                typer.echo("\n".join(told))
                if out is not None:
                    with out.open("a", encoding="utf-8") as file:
                        file.writelines(line + "\n" for line in told)
            rig.check_integrity()
    if out is not None:
        title = f"What the edge adds to the engine, {config.model.path}"
        out.with_suffix(".svg").write_text(picture(title, rows), encoding="utf-8")
    return rows


def _server(url: str) -> tuple[str, int, str]:
    """Return host, port and model of a running server."""
    import httpx

    from router.errors import StartFailed

    parts = urlsplit(url)
    if parts.scheme != "http" or parts.hostname is None:
        raise typer.BadParameter(f"{url!r} is no http://HOST:PORT", param_hint="--url")
    try:
        answer = httpx.get(f"{url.rstrip('/')}/v1/models", trust_env=False).raise_for_status()
    except httpx.HTTPError as error:
        raise StartFailed(f"{url} does not answer: {error}") from error
    return parts.hostname, parts.port or 80, answer.json()["data"][0]["id"]


def _cell(value: object) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
