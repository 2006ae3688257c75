"""What a model's name means, and what is said when it means nothing."""

from pathlib import Path

import pytest

from cluster.model_source import find_model, open_model
from model.checkpoint.write import write_random_checkpoint
from model.errors import CheckpointDamaged, CheckpointMissing
from tests.support.random_model import random_config


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A cache of the test's own; relative names are looked up in an empty directory."""
    monkeypatch.setenv("EXPERTMESH_CACHE", str(tmp_path / "cache"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "cache"


def test_a_directory_is_opened(cache: Path, tmp_path: Path) -> None:
    write_random_checkpoint(tmp_path / "mine", random_config(), seed=1)
    assert open_model(str(tmp_path / "mine")).config == random_config()
    assert find_model("../mine") == Path("../mine")


def test_a_fetched_model_is_found_by_its_name(cache: Path) -> None:
    target = cache / "models" / "openai" / "gpt-oss-20b"
    target.parent.mkdir(parents=True)
    write_random_checkpoint(target, random_config(), seed=1)
    assert find_model("openai/gpt-oss-20b") == target
    assert open_model("openai/gpt-oss-20b").path == target


def test_a_directory_of_that_name_goes_before_the_cache(cache: Path) -> None:
    (cache / "models" / "openai" / "gpt-oss-20b").mkdir(parents=True)
    Path("openai/gpt-oss-20b").mkdir(parents=True)
    assert find_model("openai/gpt-oss-20b") == Path("openai/gpt-oss-20b")


def test_a_model_that_was_not_fetched_names_the_command(cache: Path) -> None:
    with pytest.raises(CheckpointMissing, match=r"openai/gpt-oss-20b: .*`expertmesh fetch openai/gpt-oss-20b`"):
        find_model("openai/gpt-oss-20b")


@pytest.mark.parametrize("name", ["missing", "./missing", "a/b/c", "../../etc", "/no/such/place", "-x/y"])
def test_a_name_that_means_nothing_says_what_would(cache: Path, name: str) -> None:
    with pytest.raises(CheckpointMissing, match="no such directory; `tiny` is the embedded model"):
        find_model(name)


def test_a_fetched_model_that_is_not_whole_names_the_command(cache: Path) -> None:
    target = cache / "models" / "openai" / "gpt-oss-20b"
    target.parent.mkdir(parents=True)
    write_random_checkpoint(target, random_config(), seed=1)
    (target / "model.safetensors").unlink()
    with pytest.raises(CheckpointMissing, match="`expertmesh fetch openai/gpt-oss-20b` completes it"):
        open_model("openai/gpt-oss-20b")


def test_another_problem_of_a_checkpoint_is_told_as_it_is(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(CheckpointMissing, match=r"config\.json") as missing:
        open_model(str(tmp_path / "mine"))
    assert "fetch" not in str(missing.value)
    (tmp_path / "mine" / "config.json").write_text("{")
    with pytest.raises(CheckpointDamaged, match=r"config\.json"):
        open_model(str(tmp_path / "mine"))


def test_a_cache_that_cannot_be_written_is_named(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EXPERTMESH_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(CheckpointMissing, match="EXPERTMESH_CACHE names another"):
        find_model("tiny")
