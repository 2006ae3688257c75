"""Makes and fills `.venv`: resolve first, judge the resolution, then install; nothing when all is as pinned already."""

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path

from setup.pip import SetupFailed, clean_variables, run_pip
from setup.requirements import answers, index_url, torch_requirement, without_index
from setup.resolution import Report, cuda_packages, refusal

PIP_VERSION = "26.3"  # its dry run downloads no wheels, unlike that of the pip which comes with Python 3.11


@dataclass(frozen=True, slots=True)
class Environment:
    """The environment of a checkout: `.venv` in `root`, filled for a device, with or without the tests' needs."""

    root: Path
    device: str
    with_dev: bool

    @property
    def folder(self) -> Path:
        """Return where the environment lies."""
        return self.root / ".venv"

    @property
    def python(self) -> Path:
        """Return its interpreter."""
        return self.folder / "bin" / "python"

    @property
    def log(self) -> Path:
        """Return the file with all of pip's words."""
        return self.folder / "setup.log"

    @property
    def requirement_files(self) -> list[Path]:
        """Return the files that pin what it holds, the one with torch first."""
        names = [f"requirements-{self.device}.txt", *(["requirements-dev.txt"] if self.with_dev else [])]
        return [self.root / name for name in names]

    def fingerprint(self) -> str:
        """Return a digest of everything that decides what the environment holds."""
        digest = hashlib.sha256(repr((sys.version_info[:2], str(self.root), self.device, self.with_dev)).encode())
        for path in [*self.requirement_files, self.root / "requirements.txt"]:
            digest.update(path.read_bytes())
        project = tomllib.loads((self.root / "pyproject.toml").read_text(encoding="utf-8"))
        digest.update(json.dumps([project["project"], project["tool"]["setuptools"]]).encode())
        return digest.hexdigest()


def is_ready(environment: Environment) -> bool:
    """Return whether the environment holds what is pinned; what the tests need on top does no harm."""
    try:
        stamps = _stamp(environment).read_text(encoding="ascii").split()
    except OSError:
        return False
    return environment.fingerprint() in stamps and environment.python.exists()


def prepare(environment: Environment) -> None:
    """Make the environment hold what is pinned; raises SetupFailed."""
    _create(environment)
    _stamp(environment).unlink(missing_ok=True)
    _pip(environment, "Getting pip", "install", f"pip=={PIP_VERSION}")
    with tempfile.TemporaryDirectory(prefix="expertmesh-setup-") as scratch:
        requirements = _reachable_requirements(environment, Path(scratch))
        report = _resolve(environment, requirements, Path(scratch) / "report.json")
        num_packages = len(report.get("install", []))
        if num_packages:
            arguments = ["install", "--progress-bar", "raw", *_files(requirements)]
            _pip(environment, "Installing", *arguments, num_expected=num_packages)
    root = str(environment.root)
    _pip(environment, "Installing expertmesh", "install", "--no-deps", "--no-build-isolation", "--editable", root)
    stamps = {environment.fingerprint(), replace(environment, with_dev=False).fingerprint()}
    _stamp(environment).write_text("\n".join(sorted(stamps)), encoding="ascii")


def _create(environment: Environment) -> None:
    if _works(environment.python):
        return
    folder = environment.folder
    if folder.exists() and not (folder / "pyvenv.cfg").exists():
        raise SetupFailed(f"{folder} is there and is no Python environment. Move it away first.")
    print(f"Making {folder} with Python {sys.version_info.major}.{sys.version_info.minor}", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "-m", "venv", str(folder)]
    made = subprocess.run(command, capture_output=True, text=True, check=False, env=clean_variables())
    if made.returncode != 0:
        raise SetupFailed(f"{' '.join(command)} failed:\n{(made.stdout + made.stderr).strip()}")


def _works(python: Path) -> bool:
    """Return whether the environment's interpreter runs and has the version of the one that runs set-up."""
    check = f"import sys; sys.exit(sys.version_info[:2] != {tuple(sys.version_info[:2])})"
    try:
        return subprocess.run([python, "-c", check], capture_output=True, timeout=60, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _reachable_requirements(environment: Environment, scratch: Path) -> list[Path]:
    """Return the requirement files, the first one without its extra index if that does not answer."""
    main, *others = environment.requirement_files
    text = main.read_text(encoding="utf-8")
    url = index_url(text)
    if url is None or answers(url):
        return [main, *others]
    print(f"{url} does not answer; looking for a CPU build of torch without it", flush=True)
    copy = scratch / main.name
    copy.write_text(without_index(text, str(environment.root)), encoding="utf-8")
    return [copy, *others]


def _resolve(environment: Environment, requirements: list[Path], report_path: Path) -> Report:
    """Return pip's report of what it would install. CUDA wheels on a machine without a GPU raise SetupFailed.

    torch goes first and alone: where an index has no separate metadata, resolving it with its dependencies would
    already download them.
    """
    text = requirements[0].read_text(encoding="utf-8")
    url = index_url(text)
    torch = ["--no-deps", torch_requirement(text), *(["--extra-index-url", url] if url else [])]
    report: Report = {}
    for title, arguments in (("Looking for torch", torch), ("Looking for the rest", _files(requirements))):
        options = ["install", "--dry-run", "--report", str(report_path), "--progress-bar", "raw"]
        _pip(environment, title, *options, *arguments)
        report = json.loads(report_path.read_text(encoding="utf-8"))
        found = cuda_packages(report)
        if found and environment.device == "cpu" and sys.platform == "linux":
            raise SetupFailed(refusal(found, is_index_away=url is None))
    return report


def _pip(environment: Environment, title: str, *arguments: str, num_expected: int | None = None) -> None:
    run_pip(environment.python, environment.log, title, arguments, num_expected=num_expected)


def _files(requirements: list[Path]) -> list[str]:
    return [argument for path in requirements for argument in ("-r", str(path))]


def _stamp(environment: Environment) -> Path:
    return environment.folder / "expertmesh-pins"
