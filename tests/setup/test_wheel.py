"""The wheel carries everything that serving needs and nothing else, and works far from the checkout."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.house.source_tree import ROOT, sources

PACKAGES = ("cluster", "configs", "model", "protos", "router")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the wheel, built from a copy, so that the checkout stays clean."""
    copy, out = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, copy)
    for name in (*PACKAGES, "setup", "tests"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "data.tmp"))
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(out),
        str(copy),
    ]
    subprocess.run(command, check=True, timeout=240)
    return next(out.glob("expertmesh-*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the wheel unpacked, as site-packages would hold it."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def run_installed(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run Python on the unpacked wheel, far from the checkout."""
    variables = {"PYTHONPATH": str(folder), "PATH": "/usr/bin:/bin", "HOME": str(folder.parent)}
    command = [sys.executable, "-P", *arguments]
    return subprocess.run(command, cwd="/", env=variables, capture_output=True, text=True, check=False, timeout=120)


def test_it_carries_every_module_and_every_data_file(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    data = [
        path.relative_to(ROOT).as_posix()
        for pattern in (
            "configs/*.yaml",
            "model/data/*",
            "model/tiny/assets/*",
            "model/kernels/native/*.cpp",
            "protos/*.proto",
            "protos/*.pyi",
        )
        for path in ROOT.glob(pattern)
    ]
    assert {*sources(*PACKAGES), *data} <= names
    assert any(name.endswith("model/tiny/assets/tiny.safetensors.xz") for name in names)


def test_it_carries_nothing_of_the_workshop(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        folders = {name.split("/")[0] for name in archive.namelist()}
    assert folders - {*PACKAGES} == {f"{wheel.name.rsplit('-', 3)[0]}.dist-info"}


def test_its_licences_come_along(installed: Path) -> None:
    texts = [path.name for path in installed.glob("expertmesh-*.dist-info/licenses/*")]
    assert {"LICENSE", "NOTICE"} <= set(texts)


def test_its_presets_load_far_from_the_checkout(installed: Path) -> None:
    program = (
        "import router.config as c; print(c.__file__); print(*[c.load_config(name).form for name in c.preset_names()])"
    )
    result = run_installed(installed, "-c", program)
    assert result.returncode == 0, result.stderr
    place, forms = result.stdout.splitlines()
    assert place.startswith(str(installed))
    assert "cluster" in forms.split()


def test_its_command_runs_far_from_the_checkout(installed: Path) -> None:
    entry = next(installed.glob("*.dist-info/entry_points.txt")).read_text(encoding="utf-8")
    assert "expertmesh = router.cli:main" in entry
    result = run_installed(
        installed, "-c", "import sys; from router.cli import main; sys.argv = ['expertmesh', 'version']; main()"
    )
    assert result.returncode == 0, result.stderr
    assert "0.1.0" in result.stdout
