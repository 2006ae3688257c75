"""The gate every HTTP request passes first: request id, size of headers and body, keys, strangers' web pages.

Plain ASGI, so that streams pass untouched. Whatever it refuses is refused before a body is read. On the way back it is
where errors of any kind become an error body, in the words of the path's family. Here each request is counted, HEAD is
answered as GET without the body, and a client that leaves in the middle of its body is nobody's fault.
"""

import asyncio
import json
import logging
import re
import uuid
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from router.api.endpoint_names import endpoint_of_path
from router.api.error_bodies import error_body
from router.api.health import IS_TRUSTED, PUBLIC_PATHS
from router.auth import KeyRing, is_loopback, note_client
from router.config import HttpSection
from router.errors import (
    BodyTooSlow,
    Forbidden,
    HeadersTooLarge,
    RequestError,
    RequestTooLarge,
    Unauthenticated,
    answer_to,
)
from router.request_meter import CLIENT_LEFT_STATUS, RequestMeter, measured

REQUEST_ID = b"x-request-id"
API_KEY = b"x-api-key"
_log = logging.getLogger(__name__)
_GIVEN_ID = re.compile(r"[\x21-\x7e]{1,128}")


class Gate:
    """Lets a request through to the app, or answers it."""

    def __init__(
        self,
        app: ASGIApp,
        keys: KeyRing,
        http: HttpSection,
        new_meter: Callable[[str], RequestMeter],
        names_responses: bool = True,
    ) -> None:
        """Stand before `app`; `new_meter` measures a request of an endpoint that is counted, by its name.

        With `names_responses`, every response says its request's id.
        """
        self._app = app
        self._keys = keys
        self._http = http
        self._new_meter = new_meter
        self._names_responses = names_responses

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = _with_bearer(scope["headers"])
        scope = {**scope, "headers": headers}
        given = dict(headers).get(REQUEST_ID, b"").decode("latin-1")
        request_id = (given if _GIVEN_ID.fullmatch(given) else uuid.uuid4().hex).encode()
        is_head = scope["method"] == "HEAD"
        answer = _Answer(send, request_id if self._names_responses else None, has_body=not is_head)
        endpoint = endpoint_of_path(scope["path"])
        with nullcontext() if endpoint is None else measured(self._new_meter(endpoint)) as meter:
            asked = {**scope, "method": "GET"} if is_head else scope
            await self._answer(asked, receive, answer, request_id)
            if meter is not None and answer.status is not None:
                meter.close_answered(answer.status)

    async def _answer(self, scope: Scope, receive: Receive, answer: "_Answer", request_id: bytes) -> None:
        """Let the app answer, or answer with the error that comes out of it."""
        try:
            scope[IS_TRUSTED] = self._check(scope["path"], scope["headers"])
            await self._app(scope, _limited(receive, self._http), answer.send)
        except ClientDisconnect:
            answer.status = answer.status or CLIENT_LEFT_STATUS
        except Exception as error:
            if answer.status is not None:
                raise
            told = answer_to(error)
            if told.status == 500:
                _log.error("request %s failed", request_id.decode(), exc_info=error)
            await _refuse(told, scope["path"], answer.send)

    def _check(self, path: str, headers: list[tuple[bytes, bytes]]) -> bool:
        """Return whether the client may see everything; False only where nobody needs a key. Raises RequestError."""
        num_bytes = sum(len(name) + len(value) for name, value in headers)
        if num_bytes > self._http.max_header_bytes:
            message = f"The headers have {num_bytes} bytes; at most {self._http.max_header_bytes} are read."
            raise HeadersTooLarge(message)
        by_name = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers}
        refusal = self._refusal(by_name)
        if refusal is not None and path not in PUBLIC_PATHS:
            raise refusal
        length = by_name.get("content-length", "")
        if length.isdigit() and int(length[:20]) > self._http.max_body_bytes:
            raise _too_large(self._http.max_body_bytes)
        return refusal is None

    def _refusal(self, headers: dict[str, str]) -> RequestError | None:
        try:
            note_client(self._keys.check(headers.get("authorization")))
            if self._keys.is_empty:
                _refuse_web_pages(headers)
        except (Unauthenticated, Forbidden) as error:
            return error
        return None


@dataclass(slots=True)
class _Answer:
    """The way of a response to the client."""

    inner: Send
    request_id: bytes | None
    has_body: bool
    status: int | None = None
    """Once the response has begun."""

    async def send(self, message: Message) -> None:
        """Pass a message on, the first with the request's id."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            if self.request_id is not None:
                message = {**message, "headers": [*message.get("headers", ()), (REQUEST_ID, self.request_id)]}
        elif not self.has_body:
            message = {**message, "body": b""}
        await self.inner(message)


def _with_bearer(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return headers in which a key that came as Anthropic's clients send it stands where all others send theirs."""
    given = dict(headers)
    if b"authorization" in given or API_KEY not in given:
        return headers
    return [*headers, (b"authorization", b"Bearer " + given[API_KEY])]


def _refuse_web_pages(headers: dict[str, str]) -> None:
    """Without keys, whoever reaches loopback is served; pages of other sites in a local browser must not be.

    A page elsewhere shows by its Origin; one that rebound its own name to this machine shows by the Host.
    """
    for name in ("origin", "host"):
        value = headers.get(name, "")
        if value and not is_loopback(_host_of(value)):
            message = f"Without API keys only loopback is served, and the {name} header says {value[:80]!r}. Set a key."
            raise Forbidden(message)


def _host_of(value: str) -> str:
    """Return the host that an Origin or a Host header names, empty if it names none."""
    try:
        return urlsplit(value if "//" in value else f"//{value}").hostname or ""
    except ValueError:
        return ""


def _limited(receive: Receive, http: HttpSection) -> Receive:
    """Return `receive`, failing once the body has become too large, or has taken too long."""
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + http.stalled_client_s
    num_bytes = 0
    is_whole = False

    async def receive_limited() -> Message:
        nonlocal num_bytes, is_whole
        try:
            # Behind the body only the client's leaving is waited for, as long as it stays.
            async with asyncio.timeout_at(None if is_whole else deadline_s):
                message = await receive()
        except TimeoutError:
            raise BodyTooSlow(f"The body did not come within {http.stalled_client_s:g} s.") from None
        num_bytes += len(message.get("body", b""))
        is_whole = not message.get("more_body", False)
        if num_bytes > http.max_body_bytes:
            raise _too_large(http.max_body_bytes)
        return message

    return receive_limited


def _too_large(max_body_bytes: int) -> RequestTooLarge:
    return RequestTooLarge(f"The body is larger than {max_body_bytes} bytes, the most that is read.")


async def _refuse(error: RequestError, path: str, send: Send) -> None:
    body = json.dumps(error_body(path, error)).encode()
    headers = [(name.encode(), value.encode()) for name, value in error.headers().items()]
    headers += [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
