"""A folder for each client, with its packages and nothing else; made once, made anew when what is pinned changes."""

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.e2e.clients.catalogue import Client, Kind

_log = logging.getLogger(__name__)
_STAMP = "installed.txt"


def prepared(client: Client, cache: Path, checkouts: Mapping[str, Path]) -> Path:
    """Return a client's folder with everything installed; raises CalledProcessError with what the installer says."""
    folder = cache / client.name
    stamp = folder / _STAMP
    wanted = "\n".join(client.packages)
    if not stamp.is_file() or stamp.read_text() != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        _log.info("%s: installing %s", client.name, ", ".join(client.packages))
        _install(client, folder)
        stamp.write_text(wanted)
    if client.source is not None and not (folder / "source").is_dir():
        _check_out(client.source, folder / "source", checkouts.get(client.source))
    return folder


def version_of(client: Client, folder: Path) -> str:
    """Return the client's version: as pinned, or the commit of its repository."""
    commit = folder / "source" / "COMMIT"
    return commit.read_text()[:9] if commit.is_file() else client.version


def command_of(client: Client, folder: Path, script: Path) -> list[str]:
    """Return what runs the client's script, to be called in its folder."""
    if script.suffix == ".mjs":
        return ["node", str(script)]
    return [str(folder / "venv" / "bin" / "python") if client.kind is Kind.PIP else sys.executable, str(script)]


def _install(client: Client, folder: Path) -> None:
    if client.kind is Kind.PIP:
        _run(sys.executable, "-m", "venv", str(folder / "venv"))
        _run(str(folder / "venv" / "bin" / "python"), "-m", "pip", "install", "--quiet", *client.packages)
    else:
        _run("npm", "install", "--prefix", str(folder), *client.packages)


def _check_out(source: str, target: Path, checkout: Path | None) -> None:
    """Copy the newest commit's files, from a git repository on this machine or from GitHub, and note which it is."""
    origin = str(checkout) if checkout is not None else f"https://github.com/{source}"
    _run("git", "clone", "--quiet", "--depth", "1", "--no-checkout", f"file://{origin}" if checkout else origin, target)
    tree = ["git", "-C", str(target)]
    for folder in ("compatibility-test", "bin", "src", "schema", "package.json", "tsconfig.json"):
        subprocess.run([*tree, "checkout", "--quiet", "HEAD", "--", folder], check=False, capture_output=True)
    head = subprocess.run([*tree, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    (target / "COMMIT").write_text(head.stdout)


def _run(*command: str | Path) -> None:
    environment = os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
