"""The models in the cache: where each lies, what was verified of it, and their removal.

A model is a directory `models/OWNER/NAME` with a plain checkpoint in it. `fetched.json`, written last, names the
revision and each file's content as verified; without it a directory is an unfinished download.
"""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from model.cache_dir import cache_dir, model_dir
from router.fetch_errors import ModelNameRefused, ModelNotFetched

RECEIPT_FILE = "fetched.json"


@dataclass(frozen=True, slots=True)
class VerifiedFile:
    """A file as it was when its content was verified."""

    num_bytes: int
    modified_ns: int
    content_id: str

    @classmethod
    def of(cls, file: Path, content_id: str) -> "VerifiedFile":
        """Return what `file` is now, its content being `content_id`."""
        status = file.stat()
        return cls(status.st_size, status.st_mtime_ns, content_id)

    def still_holds(self, file: Path) -> bool:
        """Return whether `file` has not been touched since."""
        return file.exists() and VerifiedFile.of(file, self.content_id) == self


@dataclass(frozen=True, slots=True)
class Receipt:
    """What was fetched: a revision, and its files by name."""

    revision: str
    files: dict[str, VerifiedFile]

    @classmethod
    def read(cls, directory: Path) -> "Receipt | None":
        """Return the receipt in `directory`, or None if there is none that can be read."""
        try:
            document = json.loads((directory / RECEIPT_FILE).read_bytes())
            files = {name: VerifiedFile(**fields) for name, fields in document["files"].items()}
            return cls(document["revision"], files)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def write(self, directory: Path) -> None:
        """Put the receipt into `directory`."""
        partial = directory / f"{RECEIPT_FILE}.partial"
        partial.write_text(json.dumps(asdict(self), indent=2) + "\n")
        partial.replace(directory / RECEIPT_FILE)

    @staticmethod
    def remove(directory: Path) -> None:
        """Take the receipt out of `directory`, whose content is about to change."""
        (directory / RECEIPT_FILE).unlink(missing_ok=True)

    def is_whole(self, directory: Path) -> bool:
        """Return whether every file is there as it was verified."""
        return all(verified.still_holds(directory / name) for name, verified in self.files.items())


@dataclass(frozen=True, slots=True)
class FetchedModel:
    """A model in the cache."""

    name: str
    path: Path
    num_bytes: int
    """On disk, unfinished files included."""
    revision: str | None
    """The commit, or None while the download is unfinished."""
    is_whole: bool
    """Whether every file is there and verified."""


def fetched_model_dir(name: str) -> Path:
    """Return the directory of a model; raises ModelNameRefused for a name that is not owner/model."""
    try:
        return model_dir(name)
    except ValueError as error:
        raise ModelNameRefused(str(error)) from error


def list_models() -> list[FetchedModel]:
    """Return the models in the cache, whole or not, by name."""
    directories = sorted((cache_dir() / "models").glob("*/*/"))
    return [_fetched_model(directory) for directory in directories]


def remove_model(name: str) -> int:
    """Delete a model from the cache and return the bytes that were freed; raises ModelNotFetched."""
    directory = fetched_model_dir(name)
    if not directory.is_dir():
        raise ModelNotFetched(f"{name} is not in the cache {cache_dir()}")
    num_bytes = _fetched_model(directory).num_bytes
    shutil.rmtree(directory)
    if not any(directory.parent.iterdir()):
        directory.parent.rmdir()
    return num_bytes


def _fetched_model(directory: Path) -> FetchedModel:
    receipt = Receipt.read(directory)
    return FetchedModel(
        name=f"{directory.parent.name}/{directory.name}",
        path=directory,
        num_bytes=sum(file.stat().st_size for file in directory.rglob("*") if file.is_file()),
        revision=receipt.revision if receipt else None,
        is_whole=receipt is not None and receipt.is_whole(directory),
    )
