"""Every preset and the chart's values load; every field of the config says what it is, a quantity with its unit."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, get_args, get_origin

import pytest
import yaml
from pydantic import BaseModel, Field, ValidationError

from router.config import Config, load_config, parse_config, preset_names
from tests.house.source_tree import ROOT

PRESETS = (
    "gpt-oss-120b-1gpu",
    "gpt-oss-120b-2nodes",
    "gpt-oss-120b-4gpu",
    "gpt-oss-20b-1gpu",
    "gpt-oss-20b-cpu",
    "tiny",
    "tiny-collapsed",
    "tiny-standalone",
)
UNIT = re.compile(r"(num|max|min|target)_\w+|\w+_(s|ms|days|bytes|tokens|fraction)|port|copies")
"""A number's name: a count or limit of what it names, a quantity that ends in its unit, a port, copies of an expert."""


def merged(base: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return two documents of values as Helm merges them: maps by key, anything else replaced, null removes a key."""
    result = dict(base)
    for key, value in above.items():
        below = result.get(key)
        result[key] = merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return {key: value for key, value in result.items() if value is not None}


def sections(section: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """Yield a section of the config and those below it."""
    yield section
    for field in section.model_fields.values():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from sections(field.annotation)


def field_faults(section: type[BaseModel]) -> list[str]:
    """Return the fields of one section that have no description, or are numbers without a unit in the name."""
    found: list[str] = []
    for name, field in section.model_fields.items():
        if not (field.description or "").strip():
            found.append(f"{section.__name__}.{name} has no description")
        if is_number(field.annotation) and not UNIT.fullmatch(name):
            found.append(f"{section.__name__}.{name} is a number without a unit in its name")
    return found


def is_number(annotation: Any) -> bool:
    """Return whether a field of this type is a number, or a number or nothing."""
    if get_origin(annotation) is None:
        return annotation in {int, float}
    return get_origin(annotation) not in {dict, list, tuple} and any(is_number(part) for part in get_args(annotation))


def chart_values() -> dict[str, dict[str, Any]]:
    """Return the values files of the chart, each merged over the default one."""
    files = {
        path.name: yaml.safe_load(path.read_text(encoding="utf-8")) for path in (ROOT / "helm").glob("values*.yaml")
    }
    return {name: merged(files["values.yaml"], values) for name, values in files.items()}


def test_the_presets_are_those_that_stay_stable() -> None:
    assert set(PRESETS) <= set(preset_names())


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_loads_and_takes_a_model_of_any_context(name: str) -> None:
    """`--model` serves any checkpoint with it: how long sequences may be is for checkpoint and memory to say."""
    assert load_config(name).model.max_context_tokens is None


@pytest.mark.parametrize("name", sorted(chart_values()))
def test_the_chart_carries_a_config_that_loads(name: str) -> None:
    parse_config(chart_values()[name]["config"], name)


def test_every_field_has_a_description_and_a_unit() -> None:
    assert [fault for section in sections(Config) for fault in field_faults(section)] == []


def test_a_section_refuses_what_it_does_not_know_and_cannot_be_changed() -> None:
    for section in sections(Config):
        with pytest.raises(ValidationError):
            section.model_validate({"no_such_field": 1})
        assert section.model_config.get("frozen")


def test_a_field_without_description_or_unit_is_found() -> None:
    class Bad(BaseModel):
        timeout: float = Field(default=1.0, description="How long")
        timeout_s: float = 1.0
        max_rows: int | None = Field(default=None, description="Most rows")
        size: int | None = Field(default=None, description="How large")
        names: list[int] = Field(default_factory=list[int], description="Some")
        is_on: bool = Field(default=True, description="On")

    assert field_faults(Bad) == [
        "Bad.timeout is a number without a unit in its name",
        "Bad.timeout_s has no description",
        "Bad.size is a number without a unit in its name",
    ]


def test_values_merge_as_helm_merges_them() -> None:
    base = {"a": {"b": 1, "c": [1, 2]}, "d": 1, "e": 2}
    assert merged(base, {"a": {"c": [3]}, "e": None}) == {"a": {"b": 1, "c": [3]}, "d": 1}
