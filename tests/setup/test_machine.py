"""What set-up finds out about the machine it runs on."""

import sys
from pathlib import Path

import pytest

from setup.machine import has_gpu, has_venv, memory_bytes


def put_listing(folder: Path, text: str, status: int) -> None:
    """Write a stand-in for the driver's own listing of GPUs."""
    listing = folder / "nvidia-smi"
    listing.write_text(f"#!/bin/sh\necho '{text}'\nexit {status}\n", encoding="utf-8")
    listing.chmod(0o755)


@pytest.mark.parametrize(
    ("text", "status", "expected"),
    [
        ("GPU 0: NVIDIA H200 (UUID: GPU-1)", 0, True),
        ("No devices were found", 0, False),
        ("NVIDIA-SMI has failed because it could not communicate with the driver", 9, False),
    ],
)
def test_a_gpu_counts_when_its_driver_lists_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, status: int, expected: bool
) -> None:
    put_listing(tmp_path, text, status)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert has_gpu() is expected


def test_a_listing_that_cannot_run_is_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nvidia-smi").write_bytes(b"\x7fELF broken")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert has_gpu() is False


def test_venv_is_missing_when_ensurepip_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert has_venv()
    monkeypatch.setitem(sys.modules, "ensurepip", None)
    assert not has_venv()


def test_memory_is_known_on_linux() -> None:
    assert (memory_bytes() or 0) > 256 * 2**20
