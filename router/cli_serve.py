"""`expertmesh serve`: reads a config, starts the server in the foreground, asks it a first question if told to."""

import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from router.cli_flags import with_config_flags

if TYPE_CHECKING:
    from router.config import Config

PRESETS = (
    "tiny",
    "tiny-collapsed",
    "tiny-standalone",
    "gpt-oss-20b-cpu",
    "gpt-oss-20b-1gpu",
    "gpt-oss-120b-1gpu",
    "gpt-oss-120b-4gpu",
    "gpt-oss-120b-2nodes",
)
"""Written out, because reading the configs would make --help slow."""
SERVE_EXAMPLES = f"""\
\b
Presets:
  {", ".join(PRESETS[:4])},
  {", ".join(PRESETS[4:])}

\b
Examples:
  expertmesh serve
  expertmesh serve gpt-oss-20b-cpu --port 8080
  expertmesh serve tiny-standalone --model ./my-checkpoint
  expertmesh serve --host 0.0.0.0 --api-key "$KEY" --set experts.num_workers=8"""


def _serve(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="FILE|PRESET",
            help="A YAML file, or a preset's name.",
            show_default="tiny; on macOS tiny-standalone",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="A.B=VALUE",
            help="Change one field of the config; may be repeated. A wrong name lists those that exist.",
        ),
    ] = None,
    ask: Annotated[
        str | None,
        typer.Option(metavar="QUESTION", help="Ask this once it is ready, say what to type next, keep serving."),
    ] = None,
) -> None:
    """Serve a model until Ctrl-C, by OpenAI's API over HTTP and by gRPC, on this machine only unless told otherwise.

    Flags go before what the file or preset says, and --set before both; defaults are what holds where none says it.
    """
    from router.platforms import require_platform

    config = read_config(source, settings or [])
    require_platform(config, platform.system(), platform.machine())
    _require_model(config)
    from router.first_question import FirstQuestion
    from router.serving import serve as serve_until_interrupted

    console = Console(highlight=False)
    is_ready = False

    def on_ready(running: "Config") -> None:
        nonlocal is_ready
        is_ready = True
        if ask is not None:
            FirstQuestion(console, running, ask).start()

    try:
        serve_until_interrupted(config, console, on_ready)
    except KeyboardInterrupt:
        # Interrupting is how a running server is asked to end; one that had not started yet was cut short.
        if not is_ready:
            raise


serve = with_config_flags(_serve)


def _require_model(config: "Config") -> None:
    """Raise CheckpointMissing before a Ray is started for a model that is not here; a joined one has its own disks."""
    if config.form == "cluster" and config.model.path != "tiny" and "RAY_ADDRESS" not in os.environ:
        from cluster.model_source import find_model

        find_model(config.model.path)


def read_config(source: str | None, overrides: list[str]) -> "Config":
    """Return the config that `serve` was asked for; raises ConfigInvalid, with a hint if a model was named."""
    from router.config import load_config, preset_names
    from router.errors import ConfigInvalid
    from router.platforms import default_preset

    source = source or default_preset(platform.system())
    is_file = Path(source).is_file() or source in preset_names()
    if not is_file and (Path(source).is_dir() or source.count("/") == 1):
        raise ConfigInvalid(f"{source} is no config, but it may be a model: `expertmesh serve --model {source}`")
    return load_config(source, overrides)
