"""CUDA wheels are found in what pip would install, before they are downloaded."""

from typing import Any

import pytest

from setup.resolution import Report, cuda_packages, refusal


def report(*entries: tuple[str, list[str]]) -> Report:
    """Return a report as pip writes it (only the fields that are read)."""
    installs: list[dict[str, Any]] = [
        {"download_info": {"url": "https://example.invalid/x.whl"}, "metadata": {"name": name, "requires_dist": needs}}
        for name, needs in entries
    ]
    return {"version": "1", "install": installs}


CUDA_TORCH = [
    "filelock",
    'cuda-bindings<14,>=13.0.3; platform_system == "Linux" and python_version < "3.15"',
    'nvidia-cudnn-cu13==9.20.0.48; platform_system == "Linux"',
    'triton==3.7.1; platform_system == "Linux"',
    'optree>=0.13.0; extra == "optree"',
]
CPU_TORCH = ["filelock", "sympy>=1.13.3", 'opt-einsum>=3.3; extra == "opt-einsum"']


def test_the_cuda_build_is_known_by_what_it_requires() -> None:
    """Torch resolved alone, without its dependencies: no nvidia wheel is in the report yet."""
    assert cuda_packages(report(("torch", CUDA_TORCH))) == ["cuda-bindings", "nvidia-cudnn-cu13", "triton"]


def test_the_cpu_build_is_let_through() -> None:
    assert cuda_packages(report(("torch", CPU_TORCH), ("numpy", []), ("filelock", []))) == []


def test_cuda_wheels_that_anything_else_pulls_in_are_found() -> None:
    whole = report(("torch", CPU_TORCH), ("something", []), ("nvidia_cublas_cu12", []), ("Triton", []))
    assert cuda_packages(whole) == ["nvidia-cublas-cu12", "triton"]


@pytest.mark.parametrize("name", ["tritonclient", "nvidia", "cudatools", "barracuda-cuda"])
def test_names_that_only_look_alike_are_let_through(name: str) -> None:
    assert cuda_packages(report((name, []))) == []


def test_what_an_extra_would_bring_does_not_count() -> None:
    assert cuda_packages(report(("jax", ['nvidia-cudnn-cu12; extra == "cuda12"']))) == []


def test_an_empty_report_means_that_all_is_installed() -> None:
    assert cuda_packages({"version": "1"}) == []


def test_the_refusal_says_what_and_what_to_do() -> None:
    text = refusal([f"nvidia-{number}" for number in range(6)], is_index_away=True)
    assert "nvidia-0, nvidia-1, nvidia-2, nvidia-3 and 2 more" in text
    assert "did not answer" in text
    assert "PIP_FIND_LINKS" in text
    assert "did not answer" not in refusal(["nvidia-0"], is_index_away=False)
