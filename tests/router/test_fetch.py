"""Fetching from a hub on loopback: what is taken, how it goes on after any break, and what is refused."""

import fcntl
import io
import json
import socket
from collections.abc import Generator
from pathlib import Path

import pytest
from rich.console import Console

import router.fetch
from model.checkpoint.open import open_checkpoint
from model.checkpoint.write import write_random_checkpoint
from router.fetch import fetch_model
from router.fetch_errors import (
    DiskTooSmall,
    FetchedDamaged,
    FetchError,
    FetchInProgress,
    HubUnreachable,
    ModelNameRefused,
    ModelNotFetched,
    ModelUnavailable,
)
from router.fetch_progress import FetchBars
from router.fetched_models import list_models, remove_model
from router.file_fetch import FetchProgress
from router.model_hub import ModelHub
from router.proxy_words import route_words
from tests.router.fake_hub import FakeHub, FakeModel
from tests.support.random_model import random_config

NAME = "openai/gpt-oss-tiny"
CONFIG = random_config(num_layers=2, num_experts=4, experts_per_token=2, vocab_size=101, max_positions=131072)
FIRST, LAST = "model-00000-of-00002.safetensors", "model-00002-of-00002.safetensors"
DOCUMENTS = {"config.json", "generation_config.json", "model.safetensors.index.json"}
WEIGHTS = {FIRST, "model-00001-of-00002.safetensors", LAST}
UNWANTED = {
    "README.md": b"# gpt-oss",
    "tokenizer.json": b"{}",
    "original/model.safetensors": b"other names",
    "metal/model.bin": b"other format",
}


@pytest.fixture(scope="module")
def checkpoint_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    path = write_random_checkpoint(tmp_path_factory.mktemp("published") / "model", CONFIG, 1, "packed", 100_000)
    return {file.name: file.read_bytes() for file in path.iterdir()}


@pytest.fixture
def hub(checkpoint_files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[FakeHub]:
    monkeypatch.setenv("EXPERTMESH_CACHE", str(tmp_path / "cache"))
    for variable in ("HF_HUB_OFFLINE", "HF_TOKEN", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "no-token"))
    with FakeHub({NAME: FakeModel(checkpoint_files | UNWANTED)}) as fake:
        yield fake


def fetch(hub: FakeHub, revision: str = "main") -> Path:
    return fetch_model(NAME, revision, ModelHub(hub.endpoint, retry_delay_s=0.0))


def file_names(directory: Path) -> set[str]:
    return {file.name for file in directory.iterdir()} - {".lock", "fetched.json"}


def ranges_of(hub: FakeHub, file: str) -> list[str | None]:
    return [request.range for request in hub.requests if request.path == f"/cdn/{NAME}/{file}"]


def test_only_what_is_served_is_fetched_and_it_is_whole(hub: FakeHub, checkpoint_files: dict[str, bytes]) -> None:
    assert checkpoint_files.keys() == DOCUMENTS | WEIGHTS
    directory = fetch(hub)
    assert open_checkpoint(directory).config == CONFIG
    assert {file: (directory / file).read_bytes() for file in checkpoint_files} == checkpoint_files
    assert file_names(directory) == DOCUMENTS | WEIGHTS
    fetched = hub.fetched()
    assert sorted(fetched) == sorted(DOCUMENTS | WEIGHTS)
    assert set(fetched[:3]) == DOCUMENTS
    (listed,) = list_models()
    assert (listed.name, listed.path, listed.is_whole) == (NAME, directory, True)


def test_what_is_there_is_not_fetched_again(hub: FakeHub) -> None:
    directory = fetch(hub)
    hub.fetched()
    assert fetch(hub) == directory
    assert hub.fetched() == []


def test_a_broken_connection_is_taken_up_where_it_broke(hub: FakeHub, checkpoint_files: dict[str, bytes]) -> None:
    hub.faults.cuts = {FIRST: [1000, 0, 500], "config.json": [10]}
    directory = fetch(hub)
    assert (directory / FIRST).read_bytes() == checkpoint_files[FIRST]
    assert ranges_of(hub, FIRST) == [None, "bytes=1000-", "bytes=1000-", "bytes=1500-"]
    assert ranges_of(hub, "config.json") == [None, "bytes=10-"]


def test_another_process_goes_on_where_one_gave_up(hub: FakeHub, checkpoint_files: dict[str, bytes]) -> None:
    hub.faults.cuts = {LAST: [700, *[0] * 100]}
    with pytest.raises(HubUnreachable, match="What has arrived is kept: try again"):
        fetch(hub)
    (listed,) = list_models()
    assert (listed.name, listed.is_whole, listed.revision) == (NAME, False, None)
    assert listed.num_bytes >= 700
    hub.faults.cuts = {}
    hub.fetched()
    directory = fetch(hub)
    assert (directory / LAST).read_bytes() == checkpoint_files[LAST]
    assert ranges_of(hub, LAST) == ["bytes=700-"]
    assert ranges_of(hub, FIRST) == []
    assert file_names(directory) == DOCUMENTS | WEIGHTS


def test_a_server_without_ranges_is_read_from_the_start(hub: FakeHub, checkpoint_files: dict[str, bytes]) -> None:
    hub.faults.cuts = {FIRST: [1000]}
    hub.faults.ignores_range = True
    assert (fetch(hub) / FIRST).read_bytes() == checkpoint_files[FIRST]


@pytest.mark.parametrize("file", [FIRST, "config.json"])
def test_a_wrong_hash_is_refused_and_fetched_anew(hub: FakeHub, checkpoint_files: dict[str, bytes], file: str) -> None:
    hub.faults.replaced = {file: checkpoint_files[file][:-1] + b"?"}
    with pytest.raises(FetchedDamaged, match=f"{file} of {NAME} arrived damaged: [0-9a-f]+, but the hub announced"):
        fetch(hub)
    hub.faults.replaced = {}
    assert (fetch(hub) / file).read_bytes() == checkpoint_files[file]


def test_more_bytes_than_announced_are_refused(hub: FakeHub, checkpoint_files: dict[str, bytes]) -> None:
    hub.faults.replaced = {FIRST: checkpoint_files[FIRST] + b"more"}
    size = len(checkpoint_files[FIRST])
    with pytest.raises(FetchedDamaged, match=f"damaged: {size + 4} bytes, but the hub announced {size} bytes"):
        fetch(hub)


def test_fewer_bytes_than_announced_are_waited_for_in_vain(hub: FakeHub, checkpoint_files: dict[str, bytes]) -> None:
    hub.faults.replaced = {FIRST: checkpoint_files[FIRST][:-5]}
    size = len(checkpoint_files[FIRST])
    with pytest.raises(HubUnreachable, match=f"ended after {size - 5} of {size} bytes"):
        fetch(hub)


def test_a_file_that_was_touched_is_verified_and_one_that_was_changed_is_replaced(
    hub: FakeHub, checkpoint_files: dict[str, bytes]
) -> None:
    directory = fetch(hub)
    hub.fetched()
    (directory / FIRST).touch()
    (listed,) = list_models()
    assert not listed.is_whole
    fetch(hub)
    assert hub.fetched() == []
    (directory / FIRST).write_bytes(checkpoint_files[FIRST][:-1] + b"?")
    with pytest.raises(FetchedDamaged, match="It was deleted; fetch again"):
        fetch(hub)
    fetch(hub)
    assert hub.fetched() == [FIRST]
    assert list_models()[0].is_whole


def test_a_new_revision_replaces_only_what_changed(hub: FakeHub, tmp_path: Path) -> None:
    directory = fetch(hub)
    hub.fetched()
    path = write_random_checkpoint(tmp_path / "newer", CONFIG, 1, "packed")
    newer = {file.name: file.read_bytes() for file in path.iterdir()}
    hub.models[NAME] = FakeModel(newer, revision="f" * 40)
    fetch(hub)
    assert hub.fetched() == ["model.safetensors"]
    assert file_names(directory) == {"config.json", "generation_config.json", "model.safetensors"}
    assert list_models()[0].revision == "f" * 40


def test_the_token_goes_to_the_hub_and_not_to_where_it_redirects(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.models[NAME].token = "hf_secret"
    with pytest.raises(ModelUnavailable, match="needs HF_TOKEN"):
        fetch(hub)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    fetch(hub)
    sent = {(request.host.split(":")[0], request.authorization) for request in hub.requests[1:]}
    assert sent == {("127.0.0.1", "Bearer hf_secret"), ("localhost", None)}


def test_a_model_that_is_not_there_is_named(hub: FakeHub) -> None:
    hub.models.clear()
    with pytest.raises(ModelUnavailable, match=f"127.0.0.1 has no model {NAME}.*check the name"):
        fetch(hub)
    assert list_models() == []


def test_a_gated_model_says_what_to_do(hub: FakeHub) -> None:
    hub.models[NAME].is_gated = True
    with pytest.raises(ModelUnavailable, match=r"is gated at 127\.0\.0\.1: accept its terms.*set HF_TOKEN"):
        fetch(hub)
    hub.models[NAME].is_gated = False
    hub.faults.status = {LAST: 403}
    with pytest.raises(ModelUnavailable, match=r"is gated at 127\.0\.0\.1"):
        fetch(hub)


def test_a_missing_revision_or_file_is_named(hub: FakeHub) -> None:
    with pytest.raises(ModelUnavailable, match="has no revision 'v9'"):
        fetch(hub, "v9")
    hub.faults.status = {LAST: 404}
    with pytest.raises(ModelUnavailable, match="has no model"):
        fetch(hub)


def test_a_hub_that_is_busy_is_asked_again_and_then_given_up(hub: FakeHub) -> None:
    hub.faults.status = {"api": 503}
    with pytest.raises(HubUnreachable, match="HTTP 503"):
        fetch(hub)
    assert len(hub.requests) == 5


def test_a_page_in_place_of_an_answer_is_no_hub(hub: FakeHub) -> None:
    for body in (b"<html>Please log in to this network</html>", b"[]"):
        hub.faults.api_body = body
        with pytest.raises(HubUnreachable, match="is HF_ENDPOINT a hub"):
            fetch(hub)


def test_no_network_says_what_to_do(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        silent = ModelHub(f"http://127.0.0.1:{port}", retry_delay_s=0.0)
        with pytest.raises(
            HubUnreachable,
            match=rf"^127.0.0.1:{port} cannot be reached without a proxy .*is not set.*HF_ENDPOINT.*--model PATH",
        ):
            fetch_model(NAME, hub=silent)
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")
        monkeypatch.delenv("no_proxy")
        monkeypatch.delenv("NO_PROXY")
        with pytest.raises(HubUnreachable, match=f"through the proxy http://127.0.0.1:{port}"):
            fetch_model(NAME, hub=ModelHub("http://hub.invalid", retry_delay_s=0.0))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(HubUnreachable, match="HF_HUB_OFFLINE is set"):
        fetch(hub)


def test_what_is_tried_is_said_at_once_and_not_tried_for_long(hub: FakeHub) -> None:
    """Nobody listens: one line before the first attempt, one before the second and last."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        notes: list[str] = []
        with pytest.raises(HubUnreachable):
            fetch_model(NAME, hub=ModelHub(f"http://{address}", retry_delay_s=0.0, on_note=notes.append))
    assert notes[0] == f"asking {address} for {NAME}, without a proxy (http_proxy is not set)"
    assert len(notes) == 2
    assert notes[1].startswith(f"{address}: ")
    assert notes[1].endswith("; trying again in 0 s")


def test_the_way_to_a_hub_is_told_with_the_variable_that_sets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    url = "https://hub.example/api"
    assert route_words(url) == "without a proxy (https_proxy is not set)"
    monkeypatch.setenv("ALL_PROXY", "http://proxy.example:1")
    assert route_words(url) == "through the proxy http://proxy.example:1 (ALL_PROXY)"
    monkeypatch.setenv("https_proxy", "http://me:secret@proxy.example:2")
    assert route_words(url) == "through the proxy http://***@proxy.example:2 (https_proxy)"
    monkeypatch.setenv("no_proxy", "hub.example")
    assert route_words(url) == "without a proxy (no_proxy excepts hub.example)"


def test_another_kind_of_model_is_refused_before_its_weights(hub: FakeHub) -> None:
    hub.models[NAME].files["config.json"] = json.dumps(CONFIG.to_json() | {"model_type": "llama"}).encode()
    with pytest.raises(ModelUnavailable, match="no gpt-oss model that can be served: model_type = 'llama'"):
        fetch(hub)
    assert not WEIGHTS & set(hub.fetched())


def test_a_repository_without_weights_is_no_model(hub: FakeHub) -> None:
    for missing in ("config.json", *WEIGHTS):
        hub.models[NAME].files.pop(missing)
        if missing in {"config.json", max(WEIGHTS)}:
            with pytest.raises((ModelUnavailable, FetchedDamaged)):
                fetch(hub)


def test_a_file_without_a_hash_is_refused(hub: FakeHub) -> None:
    for odd in ("", "../../../etc/passwd", "g" * 64):
        hub.models[NAME].announced = {FIRST: {"lfs": {"sha256": odd, "size": 1, "pointerSize": 1}, "blobId": odd}}
        with pytest.raises(FetchedDamaged, match=f"no hash for {FIRST}"):
            fetch(hub)


def test_files_that_agree_with_the_hub_but_not_with_each_other_are_refused(hub: FakeHub) -> None:
    files = hub.models[NAME].files
    index = json.loads(files["model.safetensors.index.json"])
    index["metadata"]["total_size"] += 1
    files["model.safetensors.index.json"] = json.dumps(index).encode()
    with pytest.raises(FetchedDamaged, match="its index announces"):
        fetch(hub)
    assert not list_models()[0].is_whole
    files.pop(LAST)
    with pytest.raises(FetchedDamaged, match=f"{LAST}: is missing"):
        fetch(hub)


def test_a_disk_too_small_is_known_before_anything_is_fetched(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(router.fetch, "FREE_MARGIN_BYTES", 10**18)
    with pytest.raises(DiskTooSmall, match=r"0\.0 GB are to be fetched.*EXPERTMESH_CACHE names another place"):
        fetch(hub)
    assert hub.fetched() == []


def test_two_fetches_of_one_model_do_not_mix(hub: FakeHub) -> None:
    directory = fetch(hub)
    with (directory / ".lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_SH)
        with pytest.raises(FetchInProgress, match=f"another process is fetching {NAME}"):
            fetch(hub)
    fetch(hub)


def test_a_cache_that_cannot_be_written_is_named(hub: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where a directory should be")
    with pytest.raises(FetchError, match=r"cannot write to .*EXPERTMESH_CACHE"):
        fetch(hub)


def test_an_interrupted_fetch_stops_and_keeps_what_it_has(hub: FakeHub) -> None:
    def interrupt(progress: FetchProgress) -> None:
        if progress.total_bytes > 100_000 and progress.done_bytes > 50_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch_model(NAME, hub=ModelHub(hub.endpoint), on_progress=interrupt)
    assert list_models()[0].num_bytes > 50_000
    fetch(hub)
    assert list_models()[0].is_whole


def test_progress_ends_at_the_sum_of_all_bytes(hub: FakeHub, checkpoint_files: dict[str, bytes]) -> None:
    hub.faults.cuts = {FIRST: [1000]}
    steps: list[FetchProgress] = []
    screen = io.StringIO()
    with FetchBars(Console(file=screen, force_terminal=True, width=120)) as bars:

        def show(progress: FetchProgress) -> None:
            steps.append(progress)
            bars.show(progress)

        fetch_model(NAME, hub=ModelHub(hub.endpoint, retry_delay_s=0.0), on_progress=show)
    total = sum(len(checkpoint_files[file]) for file in WEIGHTS)
    for stage in ("download", "verify"):
        done = [step for step in steps if step.stage == stage]
        assert done[-1] == FetchProgress(stage, total, total)
        assert max(step.done_bytes for step in done) == total
    assert "download" in screen.getvalue()
    assert "verify" in screen.getvalue()


def test_removing_a_model_frees_its_bytes(hub: FakeHub, tmp_path: Path) -> None:
    fetch(hub)
    num_bytes = list_models()[0].num_bytes
    assert num_bytes > CONFIG.checkpoint_bytes()
    assert remove_model(NAME) == num_bytes
    assert list_models() == []
    assert list((tmp_path / "cache" / "models").iterdir()) == []
    with pytest.raises(ModelNotFetched, match=f"{NAME} is not in the cache"):
        remove_model(NAME)


@pytest.mark.parametrize(
    "name", ["gpt-oss-20b", "../../etc", "a/b/c", "", "openai/", "openai/..", "ope nai/x", "a/b?c"]
)
def test_names_that_lead_elsewhere_are_refused(hub: FakeHub, name: str) -> None:
    with pytest.raises(ModelNameRefused, match="model name"):
        fetch_model(name, hub=ModelHub(hub.endpoint))
    assert hub.requests == []
    with pytest.raises((ModelNameRefused, ModelNotFetched)):
        remove_model(name)
