"""FakeHub: a model hub on loopback with the answers that fetching needs, and the faults that it must survive."""

import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import urlsplit

REVISION = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Request:
    """A request as it arrived."""

    path: str
    range: str | None
    authorization: str | None
    host: str


@dataclass
class FakeModel:
    """A model on the hub: its files, and what is odd about it."""

    files: dict[str, bytes]
    is_gated: bool = False
    token: str | None = None
    """Without this token, the hub says that there is no such model."""
    announced: dict[str, dict[str, object]] = field(default_factory=dict[str, dict[str, object]])
    """Changes to what the hub says of a file."""
    revision: str = REVISION


@dataclass
class Faults:
    """What goes wrong, by file name unless said otherwise."""

    cuts: dict[str, list[int]] = field(default_factory=dict[str, list[int]])
    """After how many bytes each answer in turn breaks off; 0 breaks before the first byte."""
    replaced: dict[str, bytes] = field(default_factory=dict[str, bytes])
    """Other bytes than announced."""
    status: dict[str, int] = field(default_factory=dict[str, int])
    """A status in place of an answer; "api" stands for the question about the files."""
    ignores_range: bool = False
    api_body: bytes | None = None


class FakeHub:
    """A context manager; files are served from another host name than the hub's, as large ones are in the world."""

    def __init__(self, models: dict[str, FakeModel]) -> None:
        self.models = models
        self.faults = Faults()
        self.requests: list[Request] = []
        self.lock = threading.Lock()
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    @property
    def port(self) -> int:
        return self._server.server_address[1]

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> "FakeHub":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def fetched(self) -> list[str]:
        """Return the names of the files whose bytes were asked for, in order, and forget them."""
        with self.lock:
            requests, self.requests = self.requests, []
        return [request.path.rsplit("/", 1)[1] for request in requests if request.path.startswith("/cdn/")]


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        headers = self.headers
        with self.hub.lock:
            self.hub.requests.append(
                Request(path, headers.get("Range"), headers.get("Authorization"), headers.get("Host", ""))
            )
        if match := re.fullmatch(r"/api/models/(.+)/revision/([^/]+)", path):
            self._answer_api(match[1], match[2])
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/[0-9a-f]{40}/(.+)", path):
            self._redirect(match[1], match[2])
        elif match := re.fullmatch(r"/cdn/([^/]+/[^/]+)/(.+)", path):
            self._answer_file(match[1], match[2])
        else:
            self._send(404, b"no such page")

    def _answer_api(self, name: str, revision: str) -> None:
        model, faults = self.hub.models.get(name), self.hub.faults
        if "api" in faults.status or faults.api_body is not None:
            self._send(faults.status.get("api", 200), faults.api_body or b"")
        elif model is None or (model.token and self.headers.get("Authorization") != f"Bearer {model.token}"):
            self._send(401, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif model.is_gated:
            self._send(403, b"{}", {"X-Error-Code": "GatedRepo"})
        elif revision not in {"main", model.revision}:
            self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        else:
            siblings = [
                _sibling(file, content) | model.announced.get(file, {}) for file, content in model.files.items()
            ]
            document = {"id": name, "sha": model.revision, "siblings": siblings}
            self._send(200, json.dumps(document).encode(), {"Content-Type": "application/json"})

    def _redirect(self, name: str, file: str) -> None:
        status = self.hub.faults.status.get(file)
        if status:
            self._send(status, b"", {"X-Error-Code": "GatedRepo"} if status == 403 else {})
        elif file not in self.hub.models[name].files:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
        else:
            self._send(302, b"", {"Location": f"http://localhost:{self.hub.port}/cdn/{name}/{file}"})

    def _answer_file(self, name: str, file: str) -> None:
        faults = self.hub.faults
        content = faults.replaced.get(file, self.hub.models[name].files[file])
        start = 0
        if (match := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))) and not faults.ignores_range:
            start = int(match[1])
        with self.hub.lock:
            cut = faults.cuts.get(file, [])
            limit = cut.pop(0) if cut else None
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start:] if limit is None else content[start : start + limit])
        self.close_connection = limit is not None

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the server's name for it
        """Say nothing; `requests` has it all."""


def _sibling(name: str, content: bytes) -> dict[str, object]:
    """Return what the hub says of a file: Git's hash, and SHA-256 for what Git LFS keeps."""
    blob_id = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    sibling: dict[str, object] = {"rfilename": name, "size": len(content), "blobId": blob_id}
    if name.endswith((".safetensors", ".bin")):
        sha256 = hashlib.sha256(content).hexdigest()
        sibling["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 134}
    return sibling
