"""ModelHub: what a Hugging Face hub says of a model's files, and their bytes, from any offset on.

huggingface_hub knows tokens, endpoints, names and addresses. The bytes are streamed here, because its own download
begins a file anew that another process left unfinished.
"""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
from huggingface_hub import ModelInfo, constants, hf_hub_url
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import build_hf_headers, validate_repo_id

from router.fetch_errors import FetchError, HubUnreachable, ModelNameRefused, ModelUnavailable
from router.proxy_words import route_words

TIMEOUT_S = 30.0
CONNECT_TIMEOUT_S = 5.0
MAX_FRUITLESS_ATTEMPTS = 5
"""Attempts in a row that bring no byte before we give up."""
MAX_UNHEARD_ATTEMPTS = 2
"""The same while the hub has never answered at all: nobody should wait long to be told that there is no network."""
RETRY_DELAY_S = 1.0
OFFLINE_VARIABLE = "HF_HUB_OFFLINE"
TRANSIENT_STATUS = {408, 425, 429, 500, 502, 503, 504}


@dataclass(frozen=True, slots=True)
class HubFile:
    """One file of a model at one revision."""

    name: str
    num_bytes: int
    sha256: str | None
    """Of its content, for large files."""
    blob_id: str
    """Git's SHA-1 of its content, for small files."""

    @property
    def content_id(self) -> str:
        """Return what names this very content."""
        return self.sha256 or self.blob_id


@dataclass(frozen=True, slots=True)
class HubModel:
    """A model at one revision."""

    name: str
    revision: str
    """The commit."""
    files: tuple[HubFile, ...]


class ModelHub:
    """A hub, by default the one that HF_ENDPOINT names, or huggingface.co; HF_TOKEN opens gated models."""

    def __init__(
        self,
        endpoint: str | None = None,
        retry_delay_s: float = RETRY_DELAY_S,
        on_note: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Ask `endpoint`; `on_note` is told at once what is tried, and what is tried again."""
        self.endpoint = (endpoint or constants.ENDPOINT).rstrip("/")
        self._retry_delay_s = retry_delay_s
        self._on_note = on_note
        self._timeout = httpx.Timeout(TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
        self._has_answered = False

    def model(self, name: str, revision: str) -> HubModel:
        """Return the files of a model; raises FetchError."""
        _check_name(name)
        url = f"{self.endpoint}/api/models/{name}/revision/{quote(revision, safe='')}?blobs=true"
        document: dict[str, Any] = {}
        self._on_note(f"asking {_host(url)} for {name}, {route_words(url)}")

        def ask() -> None:
            with httpx.Client(follow_redirects=True, timeout=self._timeout) as client:
                response = client.get(url, headers=build_hf_headers())
                self._has_answered = True
                _check_status(response, name, revision)
                document.update(_json_object(response))

        self._persist(ask, lambda: 0, url)
        info = ModelInfo(**document)
        files = [
            HubFile(entry.rfilename, entry.size or 0, entry.lfs.sha256 if entry.lfs else None, entry.blob_id or "")
            for entry in info.siblings or []
        ]
        return HubModel(name, info.sha or revision, tuple(files))

    def download(self, model: HubModel, file: HubFile, target: Path, on_bytes: Callable[[int], None]) -> None:
        """Complete `target`, which may hold the beginning of `file` already; `on_bytes` is told the bytes of each step.

        A broken connection is taken up where it broke; raises FetchError when that keeps bringing nothing.
        """
        url = hf_hub_url(model.name, file.name, revision=model.revision, endpoint=self.endpoint)

        def fetch_rest() -> None:
            if _size(target) < file.num_bytes or not target.exists():
                for num_bytes in self._stream(model, url, target):
                    on_bytes(num_bytes)
                    if _size(target) > file.num_bytes:
                        return  # more than announced: the caller will see that it is damaged
            if _size(target) < file.num_bytes:
                raise _Interrupted(f"the answer ended after {_size(target)} of {file.num_bytes} bytes")

        self._persist(fetch_rest, lambda: _size(target), url)

    def _stream(self, model: HubModel, url: str, target: Path) -> Iterator[int]:
        """Append to `target` what it lacks; yield the bytes of each step, negative ones if the server begins anew."""
        offset = _size(target)
        headers = build_hf_headers() | {"Accept-Encoding": "identity"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
        with (
            httpx.Client(follow_redirects=True, timeout=self._timeout) as client,
            client.stream("GET", url, headers=headers) as response,
        ):
            _check_status(response, model.name, model.revision)
            is_continued = response.status_code == HTTPStatus.PARTIAL_CONTENT
            if not is_continued:
                yield -offset
            with target.open("ab" if is_continued else "wb") as stream:
                for chunk in response.iter_raw():  # as it comes: collected into larger pieces, a break would lose one
                    stream.write(chunk)
                    stream.flush()
                    yield len(chunk)

    def _persist(self, attempt: Callable[[], None], progress: Callable[[], int], url: str) -> None:
        """Repeat `attempt` until it succeeds, or fails too often in a row while `progress` stands still."""
        num_fruitless = 0
        while True:
            before = progress()
            try:
                attempt()
            except (httpx.TransportError, _Interrupted) as error:
                num_fruitless = 0 if progress() > before else num_fruitless + 1
                if num_fruitless >= (MAX_FRUITLESS_ATTEMPTS if self._has_answered else MAX_UNHEARD_ATTEMPTS):
                    raise HubUnreachable(_unreachable(url, error)) from error
                delay_s = self._retry_delay_s * 2**num_fruitless
                self._on_note(f"{_host(url)}: {_words(error)}; trying again in {delay_s:g} s")
                time.sleep(delay_s)
            else:
                return


class _Interrupted(Exception):
    """The server cannot answer now, or stopped in the middle."""


def _check_name(name: str) -> None:
    if os.environ.get(OFFLINE_VARIABLE, "").upper() in {"1", "ON", "YES", "TRUE"}:
        raise HubUnreachable(f"{OFFLINE_VARIABLE} is set, so nothing is fetched; unset it, or serve with --model PATH")
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ModelNameRefused(f"{name!r} is no model name: {error}") from error


def _check_status(response: httpx.Response, name: str, revision: str) -> None:
    if response.status_code in TRANSIENT_STATUS:
        raise _Interrupted(f"HTTP {response.status_code}")
    if response.is_error:
        raise _refusal(response, name, revision)


def _refusal(response: httpx.Response, name: str, revision: str) -> FetchError:
    host, code = response.url.host, response.headers.get("X-Error-Code", "")
    if code == "RevisionNotFound":
        return ModelUnavailable(f"{name} has no revision {revision!r} at {host}")
    if code == "GatedRepo" or response.status_code == HTTPStatus.FORBIDDEN:
        hint = "accept its terms on its page, and set HF_TOKEN to a token that may read it"
        return ModelUnavailable(f"{name} is gated at {host}: {hint}")
    if response.status_code in {HTTPStatus.NOT_FOUND, HTTPStatus.UNAUTHORIZED}:
        hint = "check the name; a private model needs HF_TOKEN set to a token that may read it"
        return ModelUnavailable(f"{host} has no model {name}, or does not show it to this user: {hint}")
    return ModelUnavailable(f"{host} answers {response.status_code} for {response.url}")


def _json_object(response: httpx.Response) -> dict[str, Any]:
    try:
        document = response.json()
    except ValueError as error:
        raise HubUnreachable(
            f"{response.url} answers with no JSON; is HF_ENDPOINT a hub, or a proxy in between?"
        ) from error
    if not isinstance(document, dict):
        raise HubUnreachable(f"{response.url} answers with no JSON object; is HF_ENDPOINT a hub?")
    return document


def _unreachable(url: str, error: Exception) -> str:
    return (
        f"{_host(url)} cannot be reached {route_words(url)}: {_words(error)} ({url}). What has arrived is kept: try "
        "again, set HF_ENDPOINT to a mirror, or copy the files here by other means and serve with --model PATH"
    )


def _host(url: str) -> str:
    return httpx.URL(url).netloc.decode()


def _words(error: Exception) -> str:
    if isinstance(error, httpx.ConnectTimeout):
        return f"no connection within {CONNECT_TIMEOUT_S:g} s"
    if isinstance(error, httpx.TimeoutException):
        return f"no answer within {TIMEOUT_S:g} s"
    return str(error) or type(error).__name__


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0
