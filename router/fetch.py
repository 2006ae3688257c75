"""Fetching a model from a hub into the cache: only what is served, resumed where it broke off, verified to the bit.

A file arrives under a name of its own content and gets its final name once its hash agrees, so that whatever stops
a fetch, the next one goes on from there. `fetched.json` is written when the whole checkpoint has been inspected.
"""

import errno
import fcntl
import re
import shutil
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from model.checkpoint.inspect import inspect_checkpoint
from model.checkpoint.json_file import read_json_object
from model.checkpoint.open import CONFIG_FILE, GENERATION_FILE, INDEX_FILE
from model.config import ModelConfig
from model.errors import ModelError
from router.fetch_errors import DiskTooSmall, FetchedDamaged, FetchError, FetchInProgress, ModelUnavailable
from router.fetched_models import Receipt, fetched_model_dir
from router.file_fetch import FetchProgress, FileFetch
from router.model_hub import HubFile, HubModel, ModelHub

DEFAULT_REVISION = "main"
FREE_MARGIN_BYTES = 500_000_000
"""What stays free on the disk."""
LOCK_FILE = ".lock"

_DOCUMENTS = {CONFIG_FILE, GENERATION_FILE, INDEX_FILE}
_CONTENT_ID = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


def fetch_model(
    name: str,
    revision: str = DEFAULT_REVISION,
    hub: ModelHub | None = None,
    on_progress: Callable[[FetchProgress], None] | None = None,
) -> Path:
    """Fetch `name`, such as openai/gpt-oss-20b, into the cache and return its directory, verified and whole.

    What is there already is not fetched again. `on_progress` is called from several threads, one at a time. Raises
    FetchError, whose message says what to do.
    """
    directory = fetched_model_dir(name)
    source = hub or ModelHub()
    model = source.model(name, revision)
    files = wanted_files(model)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with _exclusive(directory, name):
            fetch = FileFetch(source, model, directory, Receipt.read(directory), on_progress or (lambda _: None))
            _check_disk(directory, fetch.missing_bytes(files))
            _fetch_all(fetch, files)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise DiskTooSmall(f"the disk of {directory} is full; what has arrived is kept") from error
        raise FetchError(f"cannot write to {directory}: {error}; EXPERTMESH_CACHE names another place") from error
    return directory


def wanted_files(model: HubModel) -> list[HubFile]:
    """Return the files of `model` that are served: weights and documents of its root, and nothing below it."""
    files = [file for file in model.files if file.name in _DOCUMENTS or _is_weights(file.name)]
    names = {file.name for file in files}
    if CONFIG_FILE not in names or not any(_is_weights(name) for name in names):
        raise ModelUnavailable(f"{model.name} holds no {CONFIG_FILE} with *.safetensors beside it: no model to serve")
    for file in files:
        if not _CONTENT_ID.fullmatch(file.content_id):
            raise FetchedDamaged(f"the hub gives no hash for {file.name} of {model.name}, so it could not be verified")
    return files


def _is_weights(name: str) -> bool:
    return name.endswith(".safetensors") and not any(character in name for character in "/\\\0")


@contextmanager
def _exclusive(directory: Path, name: str) -> Generator[None]:
    """Hold the directory against other processes; the lock ends with this one, however that ends."""
    with (directory / LOCK_FILE).open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FetchInProgress(f"another process is fetching {name} already") from error
        yield


def _check_disk(directory: Path, missing_bytes: int) -> None:
    free = shutil.disk_usage(directory).free
    if missing_bytes + FREE_MARGIN_BYTES > free:
        raise DiskTooSmall(
            f"{missing_bytes / 1e9:.1f} GB are to be fetched, but the disk of {directory} has {free / 1e9:.1f} GB free "
            f"and should keep {FREE_MARGIN_BYTES / 1e9:.1f}; EXPERTMESH_CACHE names another place"
        )


def _fetch_all(fetch: FileFetch, files: Sequence[HubFile]) -> None:
    """Fetch the documents, and the weights if the documents describe a model that we serve; then check the whole."""
    if fetch.is_done(files):
        return
    Receipt.remove(fetch.directory)
    fetch.run([file for file in files if not _is_weights(file.name)])
    _check_config(fetch)
    fetch.run([file for file in files if _is_weights(file.name)])
    fetch.remove_all_but(files)
    _check_whole(fetch)
    fetch.receipt_of(files).write(fetch.directory)


def _check_config(fetch: FileFetch) -> None:
    try:
        ModelConfig.from_json(read_json_object(fetch.directory / CONFIG_FILE))
    except ModelError as error:
        raise ModelUnavailable(f"{fetch.model.name} is no gpt-oss model that can be served: {error}") from error


def _check_whole(fetch: FileFetch) -> None:
    try:
        report = inspect_checkpoint(fetch.directory)
    except ModelError as error:
        raise FetchedDamaged(f"{fetch.model.name} was fetched as published, but is no checkpoint: {error}") from error
    if report.problems:
        raise FetchedDamaged(f"{fetch.model.name} was fetched as published, but: {report.problems[0]}")
    if report.declared_bytes not in {None, report.tensor_bytes}:
        sizes = f"{report.declared_bytes} bytes, and its files hold {report.tensor_bytes}"
        raise FetchedDamaged(f"{fetch.model.name} was fetched as published, but its index announces {sizes}")
