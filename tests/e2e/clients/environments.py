"""A folder for each client, with its packages and nothing else; made once, made anew when what is pinned changes."""

import io
import logging
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
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
        _check_out(client, folder / "source", checkouts.get(client.source))
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


def _check_out(client: Client, target: Path, checkout: Path | None) -> None:
    """Copy what is wanted of the newest commit, and note which that is, from GitHub or a repository on this machine."""
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder) / "repository.git" if checkout is None else checkout
        if checkout is None:
            _run("git", "clone", "--quiet", "--bare", "--depth", "1", f"https://github.com/{client.source}", repository)
        git = ["git", "-C", str(repository)]
        commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout
        files = subprocess.run([*git, "archive", "HEAD", "--", *client.paths], check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(files)) as archive:
        archive.extractall(target, filter="data")
    (target / "COMMIT").write_text(commit)


def _run(*command: str | Path) -> None:
    environment = os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
