"""ServerClient: what the command line asks of a running server, over its public HTTP API.

An address on this machine is never asked through a proxy, whatever the environment says; others follow it.
"""

import json
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import httpx

from router.auth import is_loopback
from router.cli_errors import ServerRefused, ServerUnreachable
from router.cli_options import KEY_VARIABLE

CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 30.0
STREAM_SILENCE_S = 600.0
"""Longest silence in a stream; the server's keep-alives come far more often."""

Message = dict[str, str]


@dataclass(frozen=True, slots=True)
class ChatDelta:
    """A piece of an answer as it is being written."""

    reasoning: str = ""
    content: str = ""
    finish_reason: str | None = None


class ServerClient:
    """A connection to one server."""

    def __init__(self, url: str, api_key: str | None = None) -> None:
        """Speak to `url`, such as http://127.0.0.1:8000, with a key if the server asks for one."""
        self.url = url.rstrip("/").removesuffix("/v1")
        headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        timeout = httpx.Timeout(ANSWER_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
        try:
            host = httpx.URL(self.url).host
            self._http = httpx.Client(
                base_url=self.url, headers=headers, timeout=timeout, trust_env=not is_loopback(host)
            )
        except (httpx.InvalidURL, ValueError) as error:
            raise ServerUnreachable(f"{url} is no address of a server: {error}") from error

    def __enter__(self) -> "ServerClient":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def ready(self) -> dict[str, Any]:
        """Return what /ready says; it answers while the model loads, too."""
        with self._reaching():
            response = self._http.get("/ready")
        if response.status_code not in {200, 503}:
            raise ServerRefused(_refusal(self.url, response))
        return _json(self.url, response)

    def metrics(self) -> str | None:
        """Return the text of /metrics, or None if the server wants a key that we lack."""
        with self._reaching():
            response = self._http.get("/metrics")
        if response.status_code == 401:
            return None
        return self._checked(response).text

    def model_name(self) -> str:
        """Return the name of the model that is served."""
        with self._reaching():
            response = self._checked(self._http.get("/v1/models"))
        models = _json(self.url, response).get("data") or []
        if not models:
            raise ServerRefused(f"{self.url} serves no model")
        return str(models[0]["id"])

    def scale(self, num_workers: int) -> None:
        """Ask for so many expert workers; returns before they are there, or gone."""
        with self._reaching():
            self._checked(self._http.put("/cluster/workers", json={"num_workers": num_workers}))

    def chat(self, model: str, messages: Sequence[Message], options: dict[str, Any]) -> Iterator[ChatDelta]:
        """Yield the pieces of an answer; `options` are further fields of the request."""
        body = {"model": model, "messages": list(messages), "stream": True, **options}
        timeout = httpx.Timeout(STREAM_SILENCE_S, connect=CONNECT_TIMEOUT_S)
        with (
            self._reaching(),
            self._http.stream("POST", "/v1/chat/completions", json=body, timeout=timeout) as response,
        ):
            if response.is_error:
                response.read()
                self._checked(response)
            yield from _deltas(response.iter_lines())

    def _checked(self, response: httpx.Response) -> httpx.Response:
        if response.is_error:
            raise ServerRefused(_refusal(self.url, response))
        return response

    @contextmanager
    def _reaching(self) -> Generator[None]:
        try:
            yield
        except httpx.ConnectError as error:
            raise ServerUnreachable(
                f"nothing answers at {self.url}; is `expertmesh serve` running, and does --url name its address?"
            ) from error
        except httpx.TimeoutException as error:
            raise ServerUnreachable(f"{self.url} did not answer in time") from error
        except httpx.TransportError as error:
            raise ServerUnreachable(f"the connection to {self.url} broke: {error}") from error


def _deltas(lines: Iterator[str]) -> Iterator[ChatDelta]:
    """Yield the deltas of a stream of server-sent events; an error inside the stream is raised."""
    for line in lines:
        field, _, data = line.partition(":")
        if field != "data" or data.strip() == "[DONE]":
            continue
        event = json.loads(data)
        if event.get("error"):
            raise ServerRefused(_message_of(event["error"]))
        for choice in event.get("choices") or []:
            delta = choice.get("delta") or {}
            reasoning = delta.get("reasoning") or delta.get("reasoning_content") or ""  # servers differ in its name
            yield ChatDelta(reasoning, delta.get("content") or "", choice.get("finish_reason"))


def _json(url: str, response: httpx.Response) -> dict[str, Any]:
    try:
        document = response.json()
    except ValueError as error:
        raise ServerRefused(f"{url} answers, but not as an Expertmesh server does") from error
    if not isinstance(document, dict):
        raise ServerRefused(f"{url} answers, but not as an Expertmesh server does")
    return document  # pyright: ignore[reportUnknownVariableType]


def _message_of(error: Any) -> str:
    """Return what an error object says; some servers send a text in its place."""
    return str(error.get("message", error)) if isinstance(error, dict) else str(error)


def _refusal(url: str, response: httpx.Response) -> str:
    """Return the server's own message, with a hint where one helps."""
    try:
        message = _message_of(response.json()["error"])
    except (ValueError, KeyError, TypeError):
        message = f"{url}{response.request.url.path} answered {response.status_code}"
    if response.status_code == 401:
        return f"{message} (--api-key, or {KEY_VARIABLE})"
    return message
