"""A wrong name in `--set` or in a file is answered with the names that exist there, a wrong value as YAML spells it."""

from pathlib import Path

import pytest

from router.config import Config, load_config
from router.config_fields import fields_at, unknown_field
from router.errors import ConfigInvalid


def _refusal(*overrides: str, source: str = "tiny-standalone") -> str:
    with pytest.raises(ConfigInvalid) as caught:
        load_config(source, overrides)
    return str(caught.value)


def test_every_field_is_found_at_its_path():
    for section in fields_at(Config, []) or []:
        for field in fields_at(Config, [section]) or []:
            assert unknown_field(Config, [section, field]) is None
    assert fields_at(Config, ["edge", "http", "port"]) is None


def test_a_misspelt_field_names_the_nearest_and_all_others():
    said = _refusal("engine.max_running_sequence=3")
    assert said.startswith("--set engine.max_running_sequence=3: engine has no field 'max_running_sequence'; did you")
    assert "did you mean engine.max_running_sequences?" in said
    assert said.endswith("There are: " + ", ".join(fields_at(Config, ["engine"]) or []))


def test_a_misspelt_section_names_the_nearest():
    assert "there is no section 'engin'; did you mean engine? There are: form, model" in _refusal(
        "engin.block_tokens=1"
    )
    assert "edge has no field 'htpt'; did you mean edge.http?" in _refusal("edge.htpt.port=1")


def test_a_name_like_no_other_gets_the_list_alone():
    said = _refusal("zzz=1")
    assert "did you mean" not in said
    assert "There are: form, model" in said


def test_a_section_is_no_value_and_a_field_is_no_section():
    assert "engine is a section; its fields are: block_tokens" in _refusal("engine=3")
    assert "engine.block_tokens is a field, not a section: 'x'" in _refusal("engine.block_tokens.x=1")


def test_a_misspelt_field_in_a_file_is_told_alike(tmp_path: Path):
    file = tmp_path / "mine.yaml"
    file.write_text("engine: {blok_tokens: 16}\n", encoding="utf-8")
    said = _refusal(source=str(file))
    assert said.startswith(f"{file}: engine has no field 'blok_tokens'; did you mean engine.block_tokens?")


@pytest.mark.parametrize(
    ("value", "shown"), [("", "null"), ("null", "null"), ("true", "true"), ("yes please", '"yes please"'), ("-7", "-7")]
)
def test_a_wrong_value_is_shown_as_yaml_spells_it(value: str, shown: str):
    assert _refusal(f"engine.block_tokens={value}").endswith(f"(value: {shown})")


def test_a_rule_between_fields_is_told_in_its_own_words():
    assert "layer_timeout_s is 1; it must be more than reply_timeout_s" in _refusal("experts.layer_timeout_s=1.0")


def test_a_value_that_is_no_yaml_is_one_error():
    assert "'[1' is no YAML value" in _refusal("engine.block_tokens=[1")
