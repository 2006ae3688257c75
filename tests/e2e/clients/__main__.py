"""`python -m tests.e2e.clients [NAME …]`: real clients, as they are published, against servers that it starts."""

import argparse
import logging
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.e2e.clients.catalogue import CLIENTS, Client
from tests.e2e.clients.environments import command_of, prepared, version_of
from tests.e2e.clients.outcomes import Outcome, outcome, table
from tests.e2e.served import served

HERE = Path(__file__).parent
CACHE = Path.home() / ".cache" / "expertmesh-clients"
MODEL = "tiny"
_log = logging.getLogger(__name__)


def main(words: Sequence[str] | None = None) -> int:
    """Run the clients that are named, or all; write the table to stdout; return 1 if any failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.clients", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(client.name for client in CLIENTS))
    parser.add_argument("--preset", action="append", help="what to serve, may be repeated (tiny-standalone)")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where the clients are installed (%(default)s)")
    parser.add_argument(
        "--checkout",
        action="append",
        default=[],
        metavar="OWNER/NAME=PATH",
        help="a git repository to use for GitHub's",
    )
    asked = parser.parse_args(words)
    unknown = set(asked.names) - {client.name for client in CLIENTS}
    if unknown:
        parser.error(f"no such client: {', '.join(sorted(unknown))}")
    checkouts = {name: Path(path) for name, _, path in (one.partition("=") for one in asked.checkout)}
    wanted = [client for client in CLIENTS if not asked.names or client.name in asked.names]
    folders, outcomes = _installed(wanted, asked.cache, checkouts)
    for preset in asked.preset or ["tiny-standalone"]:
        outcomes += _served(preset, [client for client in wanted if client.name in folders], folders)
    sys.stdout.write(table(outcomes) + "\n")
    for one in outcomes:
        if one.failure is not None:
            _log.error("%s on %s: %s", one.client, one.preset, one.failure)
    return int(any(one.failure is not None for one in outcomes))


def _installed(
    wanted: Sequence[Client], cache: Path, checkouts: dict[str, Path]
) -> tuple[dict[str, Path], list[Outcome]]:
    """Return the folders of the clients that could be had, and what came of the others."""
    folders: dict[str, Path] = {}
    missing: list[Outcome] = []
    for client in wanted:
        try:
            folders[client.name] = prepared(client, cache.resolve(), checkouts)
        except (OSError, subprocess.CalledProcessError) as error:
            missing.append(Outcome(client.name, client.version, "", (), f"cannot be had: {error}", 0.0))
    return folders, missing


def _served(preset: str, clients: Sequence[Client], folders: dict[str, Path]) -> list[Outcome]:
    """Run clients against one server for each set of settings that they ask for."""
    outcomes: list[Outcome] = []
    for settings in dict.fromkeys(client.settings for client in clients):
        options = [word for setting in settings for word in ("--set", setting)]
        with served(preset, *options) as server:
            for client in (one for one in clients if one.settings == settings):
                folder = folders[client.name]
                command = command_of(client, folder, HERE / client.script)
                command += [server.url, MODEL, f"127.0.0.1:{server.grpc_port}"]
                one = outcome(client.name, version_of(client, folder), preset, command, folder)
                _log.info("%s: %s", client.name, "passed" if one.failure is None else "FAILED")
                outcomes.append(one)
    return outcomes


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    sys.exit(main())
