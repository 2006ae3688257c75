"""`expertmesh scale`: more or fewer expert workers for a running server."""

from typing import Annotated

import typer

from router.cli_options import DEFAULT_URL, ApiKey, Url


def scale(
    num_workers: Annotated[int, typer.Argument(min=0, metavar="WORKERS", help="Expert workers there are to be.")],
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """Have a server run on so many expert workers; requests go on meanwhile and get the same tokens.

    Returns at once. `expertmesh status` shows how far it has come: new workers start and load their share before any
    is counted on, and a worker that is to go stays until nobody asks it any more.
    """
    from router.cli_client import ServerClient

    with ServerClient(url, api_key) as client:
        client.scale(num_workers)
    typer.echo(f"{num_workers} expert workers are wanted now; `expertmesh status` shows how far it has come.")
