"""`./run` as a newcomer meets it, in a bare copy of the checkout: a shell, some Python, and nothing of ours."""

import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house.source_tree import ROOT

FAKE_PYTHON = """#!{python}
\"\"\"Stands for an environment's interpreter: notes how pip is called, and reports the resolution it was given.\"\"\"
import pathlib, sys
arguments = sys.argv[1:]
if arguments[:2] == ["-m", "pip"]:
    with open({calls!r}, "a") as calls:
        print(*arguments[2:], file=calls)
    if "--report" in arguments:
        report = pathlib.Path({report!r}).read_text()
        pathlib.Path(arguments[arguments.index("--report") + 1]).write_text(report)
"""
CUDA_REPORT = '{"install": [{"metadata": {"name": "torch", "requires_dist": ["nvidia-cublas==13.1"]}}]}'
CPU_REPORT = '{"install": [{"metadata": {"name": "torch", "requires_dist": ["filelock"]}}]}'


class BareCheckout:
    """A copy of what set-up needs, with a PATH of its own and no environment yet."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.programs = folder / "bin"
        self.programs.mkdir(parents=True)
        self.calls = folder / "calls.txt"
        self.report = folder / "resolution.json"
        for name in ("run", "pyproject.toml", "requirements.txt", "requirements-cuda.txt", "requirements-dev.txt"):
            shutil.copy(ROOT / name, folder / name)
        shutil.copytree(ROOT / "setup", folder / "setup", ignore=shutil.ignore_patterns("__pycache__"))
        (folder / "requirements-cpu.txt").write_text("-r requirements.txt\ntorch==2.13.0\n", encoding="utf-8")
        for tool in ("sh", "dirname"):
            self.program(tool, f'#!/bin/sh\nexec {shutil.which(tool)} "$@"\n')

    def program(self, name: str, text: str) -> None:
        """Put a program on the PATH."""
        self._write(self.programs / name, text)

    def python_with(self, statement: str) -> None:
        """Put a real Python on the PATH that runs `statement` before set-up."""
        start = f"import runpy, sys; {statement}; runpy.run_module('setup', run_name='__main__', alter_sys=True)"
        real = sys.executable
        script = f'#!/bin/sh\n[ "$1" = -P ] || exec {real} "$@"\nshift 3\nexec {real} -P -c "{start}" "$@"\n'
        self.program("python3.11", script)

    def environment_of_fakes(self, report: str) -> None:
        """Put an environment in place whose pip resolves to `report` and installs nothing."""
        self.python_with("pass")
        self.report.write_text(report, encoding="utf-8")
        script = FAKE_PYTHON.format(python=sys.executable, calls=str(self.calls), report=str(self.report))
        (self.folder / ".venv" / "bin").mkdir(parents=True, exist_ok=True)
        (self.folder / ".venv" / "pyvenv.cfg").write_text("", encoding="utf-8")
        self._write(self.folder / ".venv" / "bin" / "python", script)

    def pip_calls(self) -> list[str]:
        """Return how pip was called since the last question."""
        calls = self.calls.read_text(encoding="utf-8").splitlines() if self.calls.exists() else []
        self.calls.unlink(missing_ok=True)
        return calls

    def run(self, *arguments: str, device: str = "cpu") -> "subprocess.CompletedProcess[str]":
        """Run `./run` with nothing in the environment but a PATH and a device."""
        variables = {"PATH": str(self.programs), "HOME": str(self.folder), "EXPERTMESH_DEVICE": device}
        command = [str(self.folder / "run"), *arguments]
        return subprocess.run(command, env=variables, capture_output=True, text=True, check=False, timeout=120)

    @staticmethod
    def _write(path: Path, text: str) -> None:
        path.write_text(text, encoding="utf-8")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def checkout(tmp_path: Path) -> BareCheckout:
    return BareCheckout(tmp_path / "checkout")


def test_without_any_python_it_says_what_to_install(checkout: BareCheckout) -> None:
    result = checkout.run("demo")
    assert result.returncode == 1
    assert "sudo apt-get install python3 python3-venv" in result.stderr


def test_an_old_python_alone_is_not_enough(checkout: BareCheckout) -> None:
    checkout.program("python3", "#!/bin/sh\nexit 1\n")
    assert "needs Python 3.11" in checkout.run("demo").stderr


def test_a_missing_venv_module_stops_it_with_the_package_to_install(checkout: BareCheckout) -> None:
    checkout.python_with("sys.modules['ensurepip'] = None")
    checkout.program("apt-get", "#!/bin/sh\n")
    result = checkout.run("demo")
    assert result.returncode == 1
    assert f"sudo apt-get install python3.{sys.version_info.minor}-venv" in result.stderr
    assert not (checkout.folder / ".venv").exists()


def test_another_platform_is_refused_by_name(checkout: BareCheckout) -> None:
    checkout.python_with("import platform; platform.system = lambda: 'FreeBSD'")
    result = checkout.run("tests")
    assert result.returncode == 1
    assert "FreeBSD on" in result.stderr


def test_a_wrong_command_is_told_from_a_failure(checkout: BareCheckout) -> None:
    checkout.python_with("pass")
    assert checkout.run("dance").returncode == 2
    assert checkout.run().returncode == 0
    assert checkout.run("setup", device="tpu").returncode == 1


def test_cuda_wheels_stop_it_before_anything_is_downloaded(checkout: BareCheckout) -> None:
    checkout.environment_of_fakes(CUDA_REPORT)
    result = checkout.run("setup")
    assert result.returncode == 1
    assert "Stopped before downloading" in result.stderr
    assert "nvidia-cublas" in result.stderr
    getting_pip, looking_for_torch = checkout.pip_calls()
    assert getting_pip.startswith("install pip==")
    assert "--dry-run" in looking_for_torch
    assert "--no-deps" in looking_for_torch


def test_a_machine_with_a_gpu_gets_them(checkout: BareCheckout) -> None:
    checkout.environment_of_fakes(CUDA_REPORT)
    result = checkout.run("setup", device="cuda")
    assert result.returncode == 0, result.stderr
    assert any("requirements-cuda.txt" in call and "--dry-run" not in call for call in checkout.pip_calls())


def test_set_up_once_is_enough_until_a_pin_changes(checkout: BareCheckout) -> None:
    checkout.environment_of_fakes(CPU_REPORT)
    assert checkout.run("setup").returncode == 0
    assert [call for call in checkout.pip_calls() if "--editable" in call]
    assert checkout.run("setup").returncode == 0
    assert checkout.pip_calls() == []
    with (checkout.folder / "requirements.txt").open("a", encoding="utf-8") as pins:
        pins.write("another==1.0\n")
    assert checkout.run("setup").returncode == 0
    assert checkout.pip_calls() != []


def test_an_interrupted_set_up_is_not_taken_for_a_finished_one(checkout: BareCheckout) -> None:
    checkout.environment_of_fakes(CPU_REPORT)
    assert checkout.run("setup").returncode == 0
    checkout.environment_of_fakes(CUDA_REPORT)
    (checkout.folder / "requirements.txt").write_text("", encoding="utf-8")
    assert checkout.run("setup").returncode == 1
    shutil.copy(ROOT / "requirements.txt", checkout.folder)
    checkout.pip_calls()
    assert checkout.run("setup").returncode == 1
    assert checkout.pip_calls() != []


def test_the_demo_serves_the_tiny_model_and_passes_options_on(checkout: BareCheckout) -> None:
    checkout.environment_of_fakes(CPU_REPORT)
    program = checkout.folder / ".venv" / "bin" / "expertmesh"
    checkout.program("echo", f'#!/bin/sh\nexec {shutil.which("echo")} "$@"\n')
    program.write_text('#!/bin/sh\nfor word in "$@"; do echo "[$word]"; done\nexit 7\n', encoding="utf-8")
    program.chmod(0o755)
    result = checkout.run("demo", "--port", "8123")
    assert result.returncode == 7
    preset = "tiny" if sys.platform == "linux" else "tiny-standalone"
    words = [f"[{word}]" for word in ("serve", preset, "--ask", "What is 17 + 25?", "--port", "8123")]
    assert result.stdout.splitlines()[-6:] == words
