"""FileFetch: the files of one model brought into a directory, some at a time, each verified before it gets its name."""

import hashlib
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from router.fetch_errors import FetchedDamaged
from router.fetched_models import Receipt, VerifiedFile
from router.model_hub import HubFile, HubModel, ModelHub

MAX_PARALLEL_FILES = 4
HASH_CHUNK_BYTES = 4 * 1024 * 1024
PARTIAL_SUFFIX = ".partial"

Stage: TypeAlias = Literal["download", "verify"]


@dataclass(frozen=True, slots=True)
class FetchProgress:
    """How far a stage is, over the files that were wanted together."""

    stage: Stage
    done_bytes: int
    total_bytes: int


class _Cancelled(Exception):
    """Another file failed, or the user gave up."""


@dataclass(slots=True)
class FileFetch:
    """A fetch under way."""

    hub: ModelHub
    model: HubModel
    directory: Path
    receipt: Receipt | None
    """What an earlier fetch verified."""
    on_progress: Callable[[FetchProgress], None]
    _done_bytes: dict[Stage, int] = field(default_factory=dict[Stage, int])
    _total_bytes: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _is_cancelled: threading.Event = field(default_factory=threading.Event)

    def is_done(self, files: Sequence[HubFile]) -> bool:
        """Return whether the receipt is of this revision's files and all are as they were verified."""
        return self.receipt is not None and all(self._is_verified(file) for file in files)

    def missing_bytes(self, files: Sequence[HubFile]) -> int:
        """Return the bytes that are still to come."""
        return sum(file.num_bytes - self._present_bytes(file) for file in files)

    def run(self, files: Sequence[HubFile]) -> None:
        """Bring all `files` into the directory; raises the first FetchError once the others have stopped."""
        self._total_bytes = sum(file.num_bytes for file in files)
        self._done_bytes = {"download": 0, "verify": 0}
        with ThreadPoolExecutor(MAX_PARALLEL_FILES, thread_name_prefix="fetch") as pool:
            try:
                for finished in as_completed([pool.submit(self._bring, file) for file in files]):
                    finished.result()
            except BaseException:
                self._is_cancelled.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def receipt_of(self, files: Sequence[HubFile]) -> Receipt:
        """Return the receipt for `files`, all of which have been verified."""
        verified = {file.name: VerifiedFile.of(self.directory / file.name, file.content_id) for file in files}
        return Receipt(self.model.revision, verified)

    def remove_all_but(self, files: Sequence[HubFile]) -> None:
        """Delete what an older revision left: its files, other weights, and beginnings that nobody will finish."""
        wanted = {self.directory / file.name for file in files}
        earlier = {self.directory / name for name in self.receipt.files} if self.receipt else set[Path]()
        others = {*self.directory.glob("*.safetensors"), *self.directory.glob(f"*{PARTIAL_SUFFIX}")}
        for left in (earlier | others) - wanted:
            left.unlink(missing_ok=True)

    def _bring(self, file: HubFile) -> None:
        target, partial = self.directory / file.name, self._partial(file)
        if self._is_verified(file):
            self._advance("download", file.num_bytes)
            self._advance("verify", file.num_bytes)
            return
        if target.exists():  # an earlier fetch ended before its receipt, or someone put it here
            target.replace(partial)
        self._advance("download", self._present_bytes(file))
        self.hub.download(self.model, file, partial, lambda num_bytes: self._advance("download", num_bytes))
        self._verify(file, partial)
        partial.replace(target)

    def _verify(self, file: HubFile, partial: Path) -> None:
        """Compare size and hash with what the hub announced; what differs is deleted, so that a retry can succeed."""
        num_bytes = partial.stat().st_size
        found = f"{num_bytes} bytes" if num_bytes != file.num_bytes else self._hash(file, partial)
        expected = f"{file.num_bytes} bytes" if num_bytes != file.num_bytes else file.content_id
        if found != expected:
            partial.unlink()
            raise FetchedDamaged(
                f"{file.name} of {self.model.name} arrived damaged: {found}, but the hub announced {expected}. "
                "It was deleted; fetch again"
            )

    def _hash(self, file: HubFile, path: Path) -> str:
        """Return SHA-256, or Git's hash of a blob for files that the hub keeps in Git itself."""
        digest = hashlib.sha256() if file.sha256 else hashlib.sha1(b"blob %d\0" % file.num_bytes, usedforsecurity=False)
        with path.open("rb") as stream:
            while chunk := stream.read(HASH_CHUNK_BYTES):
                digest.update(chunk)
                self._advance("verify", len(chunk))
        return digest.hexdigest()

    def _advance(self, stage: Stage, num_bytes: int) -> None:
        if self._is_cancelled.is_set():
            raise _Cancelled
        with self._lock:
            self._done_bytes[stage] += num_bytes
            self.on_progress(FetchProgress(stage, self._done_bytes[stage], self._total_bytes))

    def _is_verified(self, file: HubFile) -> bool:
        verified = self.receipt.files.get(file.name) if self.receipt else None
        if verified is None or verified.content_id != file.content_id:
            return False
        return verified.still_holds(self.directory / file.name)

    def _present_bytes(self, file: HubFile) -> int:
        """Return the bytes of `file` that are here, under its own name or as a beginning."""
        sizes = [path.stat().st_size for path in (self.directory / file.name, self._partial(file)) if path.exists()]
        return min(max(sizes, default=0), file.num_bytes)

    def _partial(self, file: HubFile) -> Path:
        return self.directory / f"{file.name}.{file.content_id[:16]}{PARTIAL_SUFFIX}"
