"""A machine is judged before anything is downloaded, and each refusal names what is wrong and what to do."""

from dataclasses import replace
from pathlib import Path

import pytest

from setup.checks import GIB, Machine, judge, memory_warning, platform_refusal
from setup.machine import probe

DEBIAN = Machine(
    system="Linux",
    architecture="x86_64",
    is_64bit=True,
    libc="glibc",
    libc_version=(2, 36),
    python_version=(3, 11),
    has_venv=True,
    has_gpu=False,
    has_compiler=True,
    free_bytes=50 * GIB,
    memory_bytes=4 * GIB,
    package_manager="apt",
)
MAC = replace(DEBIAN, system="Darwin", architecture="arm64", libc="", libc_version=(), package_manager=None)


@pytest.mark.parametrize("machine", [DEBIAN, replace(DEBIAN, architecture="aarch64"), MAC])
def test_supported_machines_are_accepted(machine: Machine) -> None:
    verdict = judge(machine, with_cuda=False, is_installed=False)
    assert verdict.refusals == ()
    assert verdict.warnings == ()


@pytest.mark.parametrize(
    ("machine", "name"),
    [
        (replace(DEBIAN, system="Windows", architecture="AMD64"), "Windows"),
        (replace(MAC, architecture="x86_64"), "macOS on x86_64"),
        (replace(DEBIAN, architecture="riscv64"), "Linux on riscv64"),
        (replace(DEBIAN, architecture="armv7l"), "Linux on armv7l"),
        (replace(DEBIAN, system="FreeBSD", architecture="amd64"), "FreeBSD on amd64"),
        (replace(DEBIAN, is_64bit=False), "32-bit"),
        (replace(DEBIAN, libc="", libc_version=()), "glibc"),
        (replace(DEBIAN, libc_version=(2, 17)), "glibc 2.17"),
    ],
)
def test_every_other_platform_is_refused_by_name(machine: Machine, name: str) -> None:
    assert name in (platform_refusal(machine) or "")
    assert judge(machine, with_cuda=False, is_installed=True).refusals


@pytest.mark.parametrize(("version", "words"), [((3, 10), "3.10 is too old"), ((3, 15), "3.15 is too new")])
def test_a_python_without_wheels_is_refused(version: tuple[int, int], words: str) -> None:
    refusals = judge(replace(DEBIAN, python_version=version), with_cuda=False, is_installed=False).refusals
    assert [words in refusal for refusal in refusals] == [True]


def test_a_missing_venv_module_names_the_package_to_install() -> None:
    (refusal,) = judge(replace(DEBIAN, has_venv=False), with_cuda=False, is_installed=False).refusals
    assert "sudo apt-get install python3.11-venv" in refusal


def test_the_cuda_set_needs_more_space_than_the_cpu_set() -> None:
    tight = replace(DEBIAN, free_bytes=5 * GIB)
    assert judge(tight, with_cuda=False, is_installed=False).refusals == ()
    (refusal,) = judge(tight, with_cuda=True, is_installed=False).refusals
    assert "needs 12 GiB" in refusal
    assert "5.0 GiB are free" in refusal


def test_space_and_venv_are_not_asked_for_when_all_is_installed() -> None:
    full = replace(DEBIAN, free_bytes=0, has_venv=False)
    assert judge(full, with_cuda=False, is_installed=True).refusals == ()


def test_little_memory_is_a_warning_and_no_refusal() -> None:
    assert "1.0 GiB" in (memory_warning(replace(DEBIAN, memory_bytes=GIB)) or "")
    assert memory_warning(replace(DEBIAN, memory_bytes=None)) is None
    assert judge(replace(DEBIAN, memory_bytes=GIB), with_cuda=False, is_installed=False).refusals == ()


def test_a_missing_compiler_is_a_warning_unless_a_gpu_computes() -> None:
    without = replace(DEBIAN, has_compiler=False)
    (warning,) = judge(without, with_cuda=False, is_installed=True).warnings
    assert "sudo apt-get install g++" in warning
    assert judge(replace(without, has_gpu=True), with_cuda=True, is_installed=True).warnings == ()


def test_this_machine_can_be_probed(tmp_path: Path) -> None:
    machine = probe(tmp_path)
    assert machine.memory_bytes is None or machine.memory_bytes > GIB // 4
    assert machine.free_bytes >= 0
    assert platform_refusal(machine) is None
