"""Reads what pip says it would install, and finds CUDA wheels in it before they are downloaded."""

import re
from typing import Any

CUDA_NAME = re.compile(r"(nvidia|cuda)-.+|triton")

Report = dict[str, Any]


def cuda_packages(report: Report) -> list[str]:
    """Return the CUDA packages in a pip installation report, sorted, whether chosen already or still to be chosen.

    `report` is the JSON of `pip install --dry-run --report`. A package that another one requires counts too, so that
    torch alone, resolved without its dependencies, already tells which build it is. Requirements of extras don't count.
    """
    names: set[str] = set()
    for entry in report.get("install", []):
        metadata = entry["metadata"]
        names.add(metadata["name"])
        names.update(_required_names(metadata.get("requires_dist", [])))
    return sorted({name for name in map(_normalized, names) if CUDA_NAME.fullmatch(name)})


def refusal(packages: list[str], *, is_index_away: bool) -> str:
    """Return what a person reads when `packages` would come onto a machine without a GPU."""
    shown = ", ".join(packages[:4]) + (f" and {len(packages) - 4} more" if len(packages) > 4 else "")
    reason = " (PyTorch's own CPU index did not answer)" if is_index_away else ""
    return (
        f"Stopped before downloading CUDA wheels: no GPU is here, yet the only torch found is the CUDA build{reason}, "
        f"which brings gigabytes of them: {shown}.\n"
        "Make PyTorch's CPU index reachable, or put a CPU wheel of torch in a folder and set PIP_FIND_LINKS to it.\n"
        "If a GPU is here after all:  EXPERTMESH_DEVICE=cuda ./run demo"
    )


def _required_names(requirements: list[str]) -> set[str]:
    names: set[str] = set()
    for requirement in requirements:
        name, _, marker = requirement.partition(";")
        match = re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*", name.strip())
        if match and "extra" not in marker:
            names.add(match.group())
    return names


def _normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
