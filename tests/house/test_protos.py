"""The generated code belongs to the .proto files beside it: generating again changes nothing."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house.source_tree import ROOT


def check_generated(root: Path) -> "subprocess.CompletedProcess[str]":
    """Run the generator's own check on the protos in `root`."""
    pytest.importorskip("grpc_tools", reason="grpcio-tools comes with requirements-dev.txt")
    command = [sys.executable, "-P", "-m", "protos.generate", "--check"]
    variables = {**os.environ, "PYTHONPATH": str(root)}
    return subprocess.run(command, cwd=root, env=variables, capture_output=True, text=True, check=False, timeout=120)


def test_generating_again_changes_nothing() -> None:
    result = check_generated(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.fixture
def fresh_copy(tmp_path: Path) -> Path:
    """Return a folder with a copy of `protos`, of which the check says that it is fresh."""
    shutil.copytree(ROOT / "protos", tmp_path / "protos", ignore=shutil.ignore_patterns("__pycache__"))
    assert check_generated(tmp_path).returncode == 0
    return tmp_path


def test_a_proto_changed_after_generating_is_found(fresh_copy: Path) -> None:
    changed = min((fresh_copy / "protos").rglob("*.proto"))
    changed.write_text(changed.read_text(encoding="utf-8") + "\nmessage Unexpected {}\n", encoding="utf-8")
    assert check_generated(fresh_copy).returncode != 0


def test_a_generated_file_that_is_missing_is_found(fresh_copy: Path) -> None:
    min((fresh_copy / "protos").rglob("*_pb2.py")).unlink()
    assert check_generated(fresh_copy).returncode != 0
