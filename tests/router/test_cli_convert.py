"""`convert`: what it writes, and what it refuses to write over."""

import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
from typer.testing import CliRunner

from model.checkpoint import RandomWeights, open_checkpoint, write_random_checkpoint
from router.cli import app
from tests.support.random_model import random_config
from tests.support.same_model import assert_same_model

CONFIG = random_config(num_layers=2, num_experts=3, experts_per_token=2, vocab_size=101, max_positions=131072)
runner = CliRunner()


class Usage(NamedTuple):
    """What `shutil.disk_usage` returns."""

    total: int
    used: int
    free: int


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_random_checkpoint(tmp_path / "source", CONFIG, 1)


def convert(*arguments: object) -> str:
    """Return what a conversion that succeeds prints on stdout."""
    result = runner.invoke(app, ["convert", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(*arguments: object) -> str:
    """Return the one line of a conversion that does not."""
    result = runner.invoke(app, ["convert", *map(str, arguments)])
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


@pytest.mark.parametrize("layout", ["packed", "bf16", "original"])
def test_there_and_back_is_the_same_model(source: Path, tmp_path: Path, layout: str) -> None:
    file, back = tmp_path / "model.gguf", tmp_path / "deep" / "back"
    assert convert(source, file) == f"{file}\n"
    assert convert(file, back, "--layout", layout) == f"{back}\n"
    assert open_checkpoint(back).format.name == layout
    assert_same_model(open_checkpoint(back), RandomWeights(CONFIG, 1))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "model.gguf", "source"]


def test_inspect_shows_a_gguf_file(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "model.gguf", "--dense", "q8_0")
    result = runner.invoke(app, ["inspect", str(tmp_path / "model.gguf")])
    assert result.exit_code == 0
    assert "gguf" in result.output
    assert result.output.endswith("whole\n")


def test_nothing_is_replaced_without_force(source: Path, tmp_path: Path) -> None:
    other = write_random_checkpoint(tmp_path / "other", CONFIG, 2)
    file = tmp_path / "model.gguf"
    for target in (file, tmp_path / "directory"):
        convert(source, target)
        assert "exists; --force replaces it" in refused(other, target)
        assert_same_model(open_checkpoint(target), RandomWeights(CONFIG, 1))
        convert(other, target, "--force")
        assert_same_model(open_checkpoint(target), RandomWeights(CONFIG, 2))


def test_an_empty_directory_is_filled(source: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    convert(source, tmp_path / "empty")
    assert_same_model(open_checkpoint(tmp_path / "empty"), RandomWeights(CONFIG, 1))


def test_force_deletes_nothing_but_checkpoints(source: Path, tmp_path: Path) -> None:
    photos = write_random_checkpoint(tmp_path / "photos", CONFIG, 2)
    (photos / "cat.jpg").write_text("")
    directory = tmp_path / "directory.gguf"
    directory.mkdir()
    (directory / "file").write_text("")
    (tmp_path / "notes.gguf").write_text("no model")
    (tmp_path / "notes").write_text("no model")
    for target in (photos, directory, tmp_path / "notes.gguf", tmp_path / "notes"):
        assert "--force does not delete it" in refused(source, target, "--force")
    assert (photos / "cat.jpg").exists()
    assert (directory / "file").exists()
    assert (tmp_path / "notes").read_text() == "no model"


def test_a_model_is_not_written_over_itself(source: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    convert(source, file)
    (tmp_path / "link").symlink_to(source)
    for model, target in ((source, source), (source, tmp_path / "link"), (file, file)):
        assert "is the source itself" in refused(model, target, "--force")


def test_a_full_disk_is_known_before(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**12, 10**12 - 10**8, 10**8))
    for target in ("model.gguf", "directory"):
        assert "has 0.1 GB free" in refused(source, tmp_path / target)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_what_a_format_cannot_say_is_one_line(tmp_path: Path) -> None:
    config = random_config(layer_types=("full",) * 4)
    write_random_checkpoint(tmp_path / "full", config, 1)
    assert "layer_types" in refused(tmp_path / "full", tmp_path / "model.gguf")
    assert "max_positions" in refused(
        write_random_checkpoint(tmp_path / "short", random_config(), 1), tmp_path / "o", "--layout", "original"
    )


def test_rounding_is_said(tmp_path: Path) -> None:
    write_random_checkpoint(tmp_path / "bf16", CONFIG, 1, "bf16")
    result = runner.invoke(app, ["convert", str(tmp_path / "bf16"), str(tmp_path / "model.gguf")])
    assert result.exit_code == 0
    assert "note: experts that are not MXFP4 are rounded to it" in result.stderr


@pytest.mark.parametrize(("target", "option"), [("model.gguf", "--layout=bf16"), ("directory", "--dense=bf16")])
def test_an_option_of_the_other_format_is_wrong_usage(source: Path, tmp_path: Path, target: str, option: str) -> None:
    result = runner.invoke(app, ["convert", str(source), str(tmp_path / target), option])
    assert result.exit_code == 2
    assert not (tmp_path / target).exists()
