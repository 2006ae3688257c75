"""`inspect`, `fetch` and `models`: checkpoints as the command line shows them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from model.checkpoint.write import write_random_checkpoint
from router.cli import app
from router.cli_models import size_text
from tests.router.fake_hub import REVISION, FakeHub, FakeModel
from tests.support.random_model import random_config

NAME = "openai/gpt-oss-small"
CONFIG = random_config(num_layers=2, num_experts=4, experts_per_token=2, vocab_size=101, max_positions=131072)
runner = CliRunner()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_checkpoint(tmp_path_factory.mktemp("published") / "model", CONFIG, 1, "packed", 100_000)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EXPERTMESH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_inspect_shows_sizes_that_add_up_and_says_whole(checkpoint: Path):
    result = runner.invoke(app, ["inspect", str(checkpoint)])
    assert result.exit_code == 0
    assert "2, each with 4 experts, 2 a token" in result.output
    assert result.output.endswith("whole\n")
    document = json.loads(runner.invoke(app, ["inspect", str(checkpoint), "--json"]).output)
    assert document["is_whole"] is True
    assert sum(document["bytes_by_part"].values()) == document["tensor_bytes"]
    assert f"{document['tensor_bytes']:,}" in result.output


def test_inspect_of_a_checkpoint_with_a_hole_fails_and_names_file_and_tensor(checkpoint: Path, tmp_path: Path):
    for file in checkpoint.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    lost = min(tmp_path.glob("*.safetensors"))
    lost.unlink()
    result = runner.invoke(app, ["inspect", str(tmp_path)])
    assert result.exit_code == 1
    assert result.output.endswith("not whole\n")
    assert lost.name in result.output
    document = json.loads(runner.invoke(app, ["inspect", str(tmp_path), "--json"]).output)
    assert document["is_whole"] is False
    assert document["problems"]


@pytest.mark.parametrize("name", ["no/such/place", "openai/gpt-oss-20b"])
def test_inspect_of_nothing_is_one_line(cache: Path, name: str):
    result = runner.invoke(app, ["inspect", name])
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: {name}: ")
    assert result.stderr.count("\n") == 1


def test_a_fetched_model_is_listed_inspected_and_removed(checkpoint: Path, cache: Path):
    """A process of its own fetches: the hub's address is read when its library is imported."""
    files = {file.name: file.read_bytes() for file in checkpoint.iterdir()}
    with FakeHub({NAME: FakeModel(files)}) as hub:
        environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
        environment |= {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN_PATH": "/nonexistent", "HF_HUB_OFFLINE": "0"}
        fetched = subprocess.run(
            [sys.executable, "-c", "from router.cli import main; main()", "fetch", NAME],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env=environment,
        )
    assert fetched.returncode == 0, fetched.stderr
    assert fetched.stdout == f"{cache / 'models' / NAME}\n"
    assert runner.invoke(app, ["inspect", NAME]).exit_code == 0
    (listed,) = json.loads(runner.invoke(app, ["models", "list", "--json"]).output)
    assert (listed["name"], listed["is_whole"], listed["revision"]) == (NAME, True, REVISION)
    assert "whole" in runner.invoke(app, ["models", "list"]).output
    removed = runner.invoke(app, ["models", "remove", NAME])
    assert removed.output == f"{size_text(listed['num_bytes'])} freed\n"
    assert json.loads(runner.invoke(app, ["models", "list", "--json"]).output) == []


def test_an_empty_cache_says_what_is_there_all_the_same(cache: Path):
    result = runner.invoke(app, ["models", "list"])
    assert result.exit_code == 0
    assert "tiny" in result.output


@pytest.mark.parametrize(("name", "message"), [("openai/none", "is not in the cache"), ("none", "must be owner/model")])
def test_removing_what_is_not_there_fails(cache: Path, name: str, message: str):
    result = runner.invoke(app, ["models", "remove", name])
    assert result.exit_code == 1
    assert message in result.stderr


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 KB"), (13_761_264_768, "13.8 GB"), (2_500_000_000_000, "2.5 TB")],
)
def test_sizes_for_people(num_bytes: int, text: str):
    assert size_text(num_bytes) == text
