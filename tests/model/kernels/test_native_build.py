"""Kernels that were built beforehand: taken where they fit the processor and the source, without a compiler."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from model.kernels import native_build
from model.kernels.native_build import prebuilt

ROOT = Path(__file__).parents[3]
PROGRAM = """
from pathlib import Path
from model.kernels import native_build
native_build.PREBUILT = Path({folder!r})
from model.kernels.native_library import native_kernels
print(native_kernels().reason)
"""


def touch_all(folder: Path) -> None:
    for level in ("avx512", "avx2", "generic"):
        (folder / native_build._prebuilt_name(level)).touch()


@pytest.mark.parametrize(
    ("flags", "instructions", "wanted"),
    [
        (native_build._FLAGS["avx512"], "auto", "avx512"),
        (native_build._FLAGS["avx512"], "avx2", "avx2"),
        (native_build._FLAGS["avx512"], "generic", "generic"),
        (native_build._FLAGS["avx512"] - {"avx512_vnni"}, "auto", "avx2"),
        (native_build._FLAGS["avx2"], "auto", "avx2"),
        (native_build._FLAGS["avx2"] - {"f16c"}, "auto", "generic"),
        (set[str](), "auto", "generic"),
    ],
)
def test_the_best_build_that_the_processor_can_run_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: set[str], instructions: str, wanted: str
) -> None:
    touch_all(tmp_path)
    monkeypatch.setattr(native_build, "PREBUILT", tmp_path)
    monkeypatch.setattr(native_build, "processor_flags", lambda: frozenset(flags))
    found = prebuilt(instructions)
    assert found is not None
    assert f"-{wanted}-" in found.name


def test_a_build_of_another_source_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch_all(tmp_path)
    monkeypatch.setattr(native_build, "PREBUILT", tmp_path)
    monkeypatch.setattr(native_build, "source_digest", lambda: "00000000")
    assert prebuilt("auto") is None


def test_no_compiler_is_needed_where_the_kernels_came_prebuilt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_build, "PREBUILT", tmp_path / "built")
    native_build.build_all(["generic"])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(folder=str(tmp_path / "built"))],
        env={**os.environ, "PATH": str(tmp_path), "CXX": "", "EXPERTMESH_KERNELS": "native"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.stdout.startswith("native kernels "), done.stderr
    assert done.stdout.endswith("/generic\n")
