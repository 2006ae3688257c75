"""The requirement files pin what they should, and lose their index when it is away."""

import re
import socket
import time
import tomllib
from collections.abc import Iterator

import pytest

from setup.requirements import answers, index_url, torch_requirement, without_index
from tests.house.source_tree import ROOT

FILES = ("requirements.txt", "requirements-cpu.txt", "requirements-cuda.txt", "requirements-dev.txt")


def pins(name: str) -> dict[str, str]:
    """Return package -> version of a requirements file."""
    text = (ROOT / name).read_text(encoding="utf-8")
    found = re.findall(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;]+)", text, flags=re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", package).lower(): version for package, version in found}


@pytest.mark.parametrize("name", FILES)
def test_every_line_pins_one_version(name: str) -> None:
    lines = [
        line
        for line in (ROOT / name).read_text(encoding="utf-8").splitlines()
        if line and not line.startswith(("#", "-"))
    ]
    assert len(lines) == len(pins(name))


def test_every_dependency_of_the_project_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = {re.sub(r"[-_.]+", "-", re.split(r"[\[<>=]", line)[0]).lower() for line in project["dependencies"]}
    for device in ("cpu", "cuda"):
        assert names <= (pins("requirements.txt") | pins(f"requirements-{device}.txt")).keys()


def test_the_cpu_set_names_no_cuda_package_and_one_public_index() -> None:
    text = (ROOT / "requirements-cpu.txt").read_text(encoding="utf-8")
    assert not [name for name in pins("requirements-cpu.txt") | pins("requirements.txt") if name.startswith("nvidia-")]
    assert index_url(text) == "https://download.pytorch.org/whl/cpu"
    assert torch_requirement(text) == f"torch=={pins('requirements-cuda.txt')['torch']}"


def test_the_file_without_its_index_can_be_read_from_another_folder() -> None:
    text = "# Why.\n--extra-index-url https://example.invalid/cpu\n-r requirements.txt\n-r /abs/x.txt\ntorch==1.0\n"
    assert without_index(text, "/home/me") == "# Why.\n-r /home/me/requirements.txt\n-r /abs/x.txt\ntorch==1.0\n"
    assert index_url(without_index(text, "/home/me")) is None


def test_a_file_without_torch_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="pins no torch"):
        torch_requirement("numpy==2.0\n")


@pytest.fixture
def silent_index() -> Iterator[str]:
    """Return the URL of a server that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_an_index_that_says_nothing_costs_only_the_time_limit(silent_index: str) -> None:
    started_s = time.monotonic()
    assert not answers(silent_index, timeout_s=0.3)
    assert time.monotonic() - started_s < 5


def test_an_index_that_is_not_there_does_not_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert not answers(f"http://127.0.0.1:{port}")
    assert not answers("no address")
