"""Free memory is what the host has left, and never more than a container may take."""

from pathlib import Path

import pytest

from cluster.engine.free_memory import free_bytes, host_free_bytes

MEMINFO = "MemTotal:       16000000 kB\nMemFree:         1000000 kB\nMemAvailable:    8000000 kB\n"


def _cgroup(folder: Path, limit: str, used: str) -> Path:
    (folder / "memory.max").write_text(limit + "\n")
    (folder / "memory.current").write_text(used + "\n")
    return folder


@pytest.mark.parametrize(
    ("limit", "used", "expected"),
    [
        ("max", "5", 8_192_000_000),
        ("4000000000", "1000000000", 3_000_000_000),
        ("90000000000", "1", 8_192_000_000),
        ("4", "9", 0),
    ],
)
def test_the_smaller_of_host_and_container_counts(tmp_path: Path, limit: str, used: str, expected: int) -> None:
    (tmp_path / "meminfo").write_text(MEMINFO)
    assert host_free_bytes(tmp_path / "meminfo", _cgroup(tmp_path, limit, used)) == expected


def test_a_host_without_cgroups_and_one_without_meminfo(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text(MEMINFO)
    assert host_free_bytes(tmp_path / "meminfo", tmp_path / "none") == 8_192_000_000
    assert host_free_bytes(tmp_path / "none", tmp_path / "none") > 2**28


def test_this_machine_has_some() -> None:
    assert 2**28 < free_bytes("cpu") < 2**50
