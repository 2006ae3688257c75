"""The bare top-level names are ours alone: no other installed distribution owns them."""

from collections.abc import Iterable, Mapping
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.house.source_tree import ROOT

NAMES = ("cluster", "configs", "model", "protos", "router")


def foreign_owners(owners: Mapping[str, Iterable[str]]) -> list[str]:
    """Return `name: distribution` for each of our names that another distribution installs.

    `owners` is top-level name -> distributions, as `importlib.metadata.packages_distributions()` returns it.
    """
    return [
        f"{name}: {owner}" for name in NAMES for owner in sorted(set(owners.get(name, ()))) if owner != "expertmesh"
    ]


def test_no_other_distribution_owns_our_names() -> None:
    assert foreign_owners(metadata.packages_distributions()) == []


@pytest.mark.parametrize("name", NAMES)
def test_our_names_mean_this_checkout(name: str) -> None:
    spec = find_spec(name)
    assert spec is not None
    assert spec.origin is not None, f"{name} has no __init__.py"
    assert Path(spec.origin).is_relative_to(ROOT)


def test_a_foreign_owner_is_found() -> None:
    owners = {"model": ["expertmesh", "other"], "router": ["expertmesh"], "models": ["else"]}
    assert foreign_owners(owners) == ["model: other"]
