"""Building the native kernels: once for all processes, and the twins wherever it cannot be done."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from model.kernels.native_library import native_library

REASON = "from model.kernels.native_library import native_kernels as k; print(k().reason); print(k().library is None)"
CHUNKS_AGREE = """
from model.checkpoint.random_weights import RandomWeights
from tests.support.random_model import load_all, random_config
from tests.support.row_independence import same_bits
from tests.support.steps import random_ids, run_in_chunks
model = load_all(RandomWeights(random_config(), seed=1), "{mode}")
ids = random_ids(40, 211)
print(same_bits(run_in_chunks(*model, ids, [40]), run_in_chunks(*model, ids, [1] * 7 + [33])))
"""


def run(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a Python program in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **environment},
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


def test_without_a_compiler_the_twins_take_over_and_say_so(tmp_path: Path) -> None:
    done = run(REASON, PATH=str(tmp_path), CXX="", EXPERTMESH_CACHE=str(tmp_path))
    assert "no C++ compiler (install g++" in done.stdout
    assert "PyTorch computes in place of the faster CPU kernels: there is no C++ compiler" in done.stderr
    assert done.stdout.endswith("True\n")


def test_a_compiler_that_fails_is_quoted(tmp_path: Path) -> None:
    compiler = tmp_path / "c++"
    compiler.write_text('#!/bin/sh\n[ "$1" = --version ] && exit 0\necho "no such instruction" >&2\nexit 1\n')
    compiler.chmod(0o755)
    done = run(REASON, CXX=str(compiler), EXPERTMESH_CACHE=str(tmp_path))
    assert "the C++ compiler failed: no such instruction" in done.stdout


def test_asking_for_native_kernels_where_there_are_none_is_an_error(tmp_path: Path) -> None:
    environment = {"PATH": str(tmp_path), "CXX": "", "EXPERTMESH_KERNELS": "native", "EXPERTMESH_CACHE": str(tmp_path)}
    assert (
        "KernelsUnavailable: EXPERTMESH_KERNELS=native, but there is no C++ compiler"
        in run(REASON, **environment).stderr
    )


@pytest.mark.parametrize("mode", ["precise", "int8"])
def test_the_twins_keep_the_numerics_contract_too(mode: str) -> None:
    assert run(CHUNKS_AGREE.format(mode=mode), EXPERTMESH_KERNELS="torch").stdout == "True\n"


@pytest.mark.skipif(native_library() is None, reason="needs a C++ compiler: builds with it")
def test_processes_that_start_together_build_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(3) as pool:
        done = list(pool.map(lambda _: run(REASON, EXPERTMESH_CACHE=str(tmp_path)), range(3)))
    assert {each.stdout for each in done} == {done[0].stdout}
    assert done[0].stdout.startswith("native kernels ")
    assert [path.suffix for path in (tmp_path / "kernels").iterdir() if path.name != "lock"] == [".so"]
