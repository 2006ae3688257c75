"""Dependencies run along the arrows, and heavy libraries stay in the few files at the rim."""

import ast
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.house.source_tree import ROOT, sources

WEB = ("router/app.py", "router/api/*.py", "router/errors.py")
RIM: dict[str, tuple[str, ...]] = {
    "ray": (
        "cluster/attention_actor.py",
        "cluster/expert_worker.py",
        "cluster/ray_machinery.py",
        "cluster/supervisor.py",
        "cluster/ray_runtime.py",
        "router/attention_router.py",
        "router/deployments.py",
        "router/edge_targets.py",
        "router/ray_backend.py",
        "router/serving.py",
    ),
    "grpc": (
        "cluster/experts/client.py",
        "cluster/experts/server.py",
        "cluster/token_stream.py",
        "router/api/grpc_*.py",
    ),
    "triton": ("model/kernels/_*_triton.py",),
    "fastapi": WEB,
    "starlette": WEB,
    "uvicorn": ("router/app.py", "router/serving_standalone.py", "router/edge_bench/rig.py"),
    "pydantic": ("cluster/config.py", "router/*.py"),
    "openai_harmony": (
        "router/harmony/*.py",
        "model/tiny/prompts.py",
        "model/tiny/respelling.py",
        "model/tiny/rows.py",
        "model/tiny/vocabulary.py",
    ),
    "llguidance": ("cluster/grammar/llguidance_library.py", "cluster/grammar/trial_process.py"),
    "transformers": ("cluster/bench/peers/transformers.py",),
    "llama_cpp": ("cluster/bench/peers/llama_cpp.py",),
}
"""Library -> the files (patterns) that may import it. `grpc_health` and the like go with `grpc`."""


def imported_libraries(text: str) -> set[str]:
    """Return the top-level names that a file imports when it runs, lazily too, but not for type checkers only."""
    names: set[str] = set()
    pending: list[ast.AST] = [ast.parse(text)]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            pending.extend(node.orelse)
            continue
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
        pending.extend(ast.iter_child_nodes(node))
    return names


def misplaced_imports(files: dict[str, str]) -> list[str]:
    """Return `path imports library` for each library of RIM that a file may not import."""
    found: list[str] = []
    for path, text in files.items():
        for name in sorted(imported_libraries(text)):
            library = "grpc" if name in {"grpc_health", "grpc_reflection", "grpc_status"} else name
            if library in RIM and not any(fnmatch(path, pattern) for pattern in RIM[library]):
                found.append(f"{path} imports {name}")
    return found


def test_heavy_libraries_are_imported_in_their_few_files_only() -> None:
    assert misplaced_imports(sources()) == []


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("model/moe.py", "import ray\n"),
        ("cluster/standalone.py", "def start():\n    from grpc import aio\n"),
        ("cluster/engine/engine.py", "from pydantic import BaseModel\n"),
        ("cluster/experts/wire.py", "import grpc_health.v1\n"),
        ("model/kernels/linear.py", "import triton.language as tl\n"),
    ],
)
def test_an_import_outside_the_rim_is_found(path: str, text: str) -> None:
    assert len(misplaced_imports({path: text})) == 1


def test_an_import_for_type_checkers_only_is_allowed() -> None:
    text = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import ray\n"
    assert misplaced_imports({"model/moe.py": text}) == []


def lint_contracts(folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run the import contracts of the pyproject.toml in `folder` on the packages there."""
    pytest.importorskip("importlinter", reason="import-linter comes with requirements-dev.txt")
    program = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    command = [sys.executable, "-P", "-c", program, "--no-cache", "--config", str(folder / "pyproject.toml")]
    variables = {"PYTHONPATH": str(folder), "PATH": "/usr/bin:/bin", "COLUMNS": "200"}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=variables, timeout=120)


def test_packages_import_along_the_arrows() -> None:
    result = lint_contracts(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("cluster/engine.py", "import router.app\n"),
        ("model/moe.py", "import protos.wire\n"),
        ("protos/wire.py", "import model.moe\n"),
        ("model/moe.py", "import cluster.engine\n"),
        ("model/moe.py", "import pydantic\n"),
    ],
)
def test_an_import_against_the_arrows_breaks_a_contract(tmp_path: Path, path: str, text: str) -> None:
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text(encoding="utf-8"), encoding="utf-8")
    for module in ("cluster/engine.py", "cluster/standalone.py", "model/moe.py", "protos/wire.py", "router/app.py"):
        (tmp_path / module).parent.mkdir(exist_ok=True)
        (tmp_path / module).with_name("__init__.py").write_text("", encoding="utf-8")
        (tmp_path / module).write_text("", encoding="utf-8")
    assert lint_contracts(tmp_path).returncode == 0
    (tmp_path / path).write_text(text, encoding="utf-8")
    assert lint_contracts(tmp_path).returncode == 1
