"""Options that several commands share."""

from typing import Annotated

import typer

DEFAULT_URL = "http://127.0.0.1:8000"
KEY_VARIABLE = "EXPERTMESH_API_KEY"

Url = Annotated[str, typer.Option(metavar="URL", help="Address of a running server.")]
ApiKey = Annotated[
    str | None, typer.Option(envvar=KEY_VARIABLE, metavar="KEY", help="A key, if the server asks for one.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document, for programs.")]
