"""The native kernels on random shapes under AddressSanitizer and UBSan.

The build takes its compiler from CXX, so a script that adds flags is all it needs.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
COMPILER = next((found for name in ("g++", "clang++") if (found := shutil.which(name))), None)
SANITIZE = "-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -O1 -g"
NUM_ROUNDS = 5


def compiler_library(name: str) -> str | None:
    """Return the path of one of the compiler's run-time libraries, or None where it has none of that name."""
    if COMPILER is None or sys.platform != "linux":
        return None
    asked = subprocess.run(
        [COMPILER, f"-print-file-name={name}"], capture_output=True, text=True, check=True, timeout=60
    )
    path = Path(asked.stdout.strip())
    return str(path.resolve()) if path.is_absolute() else None


ASAN = compiler_library("libasan.so")
STANDARD = compiler_library("libstdc++.so")
"""Loaded beside the sanitizer, or it would not find what throws exceptions: Python itself is no C++ program."""
needs_sanitizer = pytest.mark.skipif(ASAN is None, reason="needs g++ with AddressSanitizer (libasan)")


def fuzz(scratch: Path, seed: int) -> subprocess.CompletedProcess[str]:
    """Run the fuzz in a process of its own, on kernels that the sanitizers watch."""
    compiler = scratch / "compiler"
    compiler.write_text(f'#!/bin/sh\n[ "$1" = --version ] && exec {COMPILER} "$@"\nexec {COMPILER} "$@" {SANITIZE}\n')
    compiler.chmod(0o755)
    environment = {
        **os.environ,
        "CXX": str(compiler),
        "EXPERTMESH_KERNELS": "native",
        "EXPERTMESH_CACHE": str(scratch),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "LD_PRELOAD": " ".join(filter(None, (ASAN, STANDARD))),
        # Python and torch never free what they hold at exit, so leaks are not asked for.
        "ASAN_OPTIONS": "detect_leaks=0",
    }
    return subprocess.run(
        [sys.executable, "-c", f"from tests.model.kernels.native_fuzz import main; main({seed}, {NUM_ROUNDS})"],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


@pytest.mark.slow
@needs_sanitizer
def test_random_shapes_stay_inside_their_memory_and_agree_with_the_twins(tmp_path: Path) -> None:
    done = fuzz(tmp_path, seed=1)
    assert done.returncode == 0, done.stderr[-4000:]
