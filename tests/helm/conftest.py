"""Fixtures of the chart's tests: Helm, and the chart rendered for every case of the matrix."""

from pathlib import Path

import pytest

from tests.helm.binary import find_helm
from tests.helm.chart import CHART, Helm, Rendered

VALUES = Path(__file__).parent / "values"

CASES: dict[str, tuple[Path, ...]] = {
    "default": (),
    "scale": (CHART / "values-scale.yaml",),
    "1gpu": (CHART / "values-1gpu.yaml",),
    "tiny": (CHART / "values-tiny.yaml",),
    "everything": (VALUES / "everything.yaml",),
    "plain": (VALUES / "plain.yaml",),
    "host-path": (VALUES / "host-path.yaml",),
}


@pytest.fixture(scope="session")
def helm() -> Helm:
    return Helm(find_helm())


@pytest.fixture(scope="session", params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[Path, ...]:
    """The values files of one case of the matrix, over the chart's defaults."""
    return CASES[request.param]


@pytest.fixture(scope="session")
def rendered(helm: Helm, case: tuple[Path, ...]) -> Rendered:
    return helm.template(case)
