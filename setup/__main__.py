"""The command line of `./run`: set-up, then the demo or the tests."""

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from setup.checks import judge
from setup.environment import Environment, is_ready, prepare
from setup.machine import probe
from setup.pip import SetupFailed, clean_variables

ROOT = Path(__file__).resolve().parent.parent
QUESTION = "What is 17 + 25?"
USAGE = """usage: ./run COMMAND

  ./run demo  [serve's options]   install, serve the embedded tiny model, ask it one question, keep serving
  ./run tests [pytest's options]  install with what the tests need, run ruff, pyright and the tests
  ./run setup                     install only

EXPERTMESH_DEVICE=cpu or cuda overrides the look for a GPU; EXPERTMESH_PYTHON names another Python.
"""


def main(arguments: Sequence[str]) -> int:
    """Run one command of `./run` and return its exit status: 2 for a wrong command, 1 for a failure."""
    command, *rest = arguments or ["help"]
    if command in {"help", "-h", "--help"}:
        print(USAGE, end="")
        return 0
    if command not in {"demo", "tests", "setup"} or (command == "setup" and rest):
        print(f"./run: no such command: {' '.join(arguments)}\n\n{USAGE}", end="", file=sys.stderr)
        return 2
    try:
        environment = set_up(with_dev=command == "tests")
    except SetupFailed as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    if command == "setup":
        return 0
    if command == "demo":
        become(demo_command(environment, rest))
    status = run_checks(environment)
    if status == 0:
        become([str(environment.python), "-m", "pytest", *rest])
    return status


def set_up(*, with_dev: bool) -> Environment:
    """Return the environment, made and filled if it was not; raises SetupFailed."""
    machine = probe(ROOT)
    device = os.environ.get("EXPERTMESH_DEVICE") or ("cuda" if machine.has_gpu else "cpu")
    if device not in {"cpu", "cuda"}:
        raise SetupFailed(f"EXPERTMESH_DEVICE is {device!r}; it may be cpu or cuda.")
    environment = Environment(ROOT, device, with_dev)
    is_installed = is_ready(environment)
    verdict = judge(machine, with_cuda=device == "cuda", is_installed=is_installed)
    for warning in verdict.warnings:
        print(f"Note: {warning}", file=sys.stderr, flush=True)
    if verdict.refusals:
        raise SetupFailed("\n".join(verdict.refusals))
    if not is_installed:
        prepare(environment)
    return environment


def demo_command(environment: Environment, options: Sequence[str]) -> list[str]:
    """Return the command that serves the tiny model, asks it one question and stays."""
    preset = "tiny" if sys.platform == "linux" else "tiny-standalone"
    return [str(environment.folder / "bin" / "expertmesh"), "serve", preset, "--ask", QUESTION, *options]


def run_checks(environment: Environment) -> int:
    """Run ruff and pyright and return the status of the first that fails, else 0."""
    os.chdir(ROOT)
    for check in (["ruff", "check", "."], ["pyright", "--pythonpath", str(environment.python)]):
        print(f"$ {shlex.join(check)}", flush=True)
        program = environment.folder / "bin" / check[0]
        status = subprocess.run([program, *check[1:]], env=clean_variables(), check=False).returncode
        if status != 0:
            print(f"{check[0]} found something (above); the tests were not run.", file=sys.stderr)
            return status
    return 0


def become(command: list[str]) -> NoReturn:
    """Replace this process, so that Ctrl-C and the exit status belong to the program alone."""
    print(f"$ {shlex.join(command)}", flush=True)
    os.execve(command[0], command, clean_variables())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
