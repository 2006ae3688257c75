"""The Dockerfile's logic, without a container engine: what it copies exists and passes the ignore file."""

import re
from pathlib import Path

import pytest
import yaml

from tests.helm.chart import CHART, ROOT

DOCKERFILE = CHART / "Dockerfile"


def _instructions() -> list[tuple[str, str]]:
    """Return (instruction, arguments) in order, with continued lines joined and comments left out."""
    lines = [line for line in DOCKERFILE.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    text = "\n".join(lines).replace("\\\n", " ")
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in text.splitlines() if line)]


def _copied() -> list[str]:
    """Return every source that is copied from the build's context."""
    copies = [rest.split() for name, rest in _instructions() if name == "COPY" and not rest.startswith("--from")]
    return [source for words in copies for source in words[:-1]]


def test_everything_that_is_copied_exists():
    sources = _copied()
    assert {"cluster", "configs", "model", "protos", "router", "pyproject.toml"} <= set(sources)
    for source in sources:
        assert (ROOT / source).exists(), source


def test_the_ignore_file_lets_exactly_the_copied_sources_through():
    lines = Path(f"{DOCKERFILE}.dockerignore").read_text(encoding="utf-8").splitlines()
    assert lines[1] == "*"
    assert {line[1:] for line in lines if line.startswith("!")} == set(_copied())


def test_every_variant_has_its_requirements():
    variants = yaml.safe_load((CHART / "values.schema.json").read_text(encoding="utf-8"))
    for variant in variants["properties"]["image"]["properties"]["variant"]["enum"]:
        assert (ROOT / f"requirements-{variant}.txt").is_file()
        assert f"requirements-{variant}.txt" in _copied()
    installs = [rest for name, rest in _instructions() if name == "RUN" and "requirements-${VARIANT}.txt" in rest]
    assert len(installs) == 1


def test_requirement_files_that_others_include_are_copied_too():
    copied = set(_copied())
    for name in sorted(copied):
        if name.startswith("requirements"):
            included = re.findall(r"^-r (\S+)$", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE)
            assert set(included) <= copied


def test_the_image_runs_as_the_charts_user():
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    wanted = values["podSecurityContext"]
    users = [rest for name, rest in _instructions() if name == "USER"]
    assert users == [f"{wanted['runAsUser']}:{wanted['runAsGroup']}"]


@pytest.mark.parametrize("tool", ["bash", "wget", "g++"])
def test_what_the_operator_and_the_kernels_call_is_installed(tool: str):
    (installed,) = [rest for name, rest in _instructions() if name == "RUN" and "apt-get install" in rest]
    assert tool in installed.split()


def test_the_kernels_are_built_after_the_wheel_is_installed_and_before_rights_are_dropped():
    lines = [f"{name} {rest}" for name, rest in _instructions()]
    (built,) = [place for place, line in enumerate(lines) if "python -m model.kernels.native_build" in line]
    (installed,) = [place for place, line in enumerate(lines) if "/wheel/*.whl" in line]
    (dropped,) = [place for place, line in enumerate(lines) if line.startswith("USER")]
    assert installed < built < dropped


def test_base_images_are_pinned_and_the_home_is_where_the_chart_mounts_it():
    bases = [rest.split()[0] for name, rest in _instructions() if name == "FROM"]
    assert bases
    assert all(":" in base and not base.endswith(":latest") for base in bases)
    (home,) = [rest for name, rest in _instructions() if name == "WORKDIR" and rest != "/source"]
    assert f"mountPath: {home}" in (CHART / "templates" / "_pod.tpl").read_text(encoding="utf-8")
