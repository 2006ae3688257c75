"""The gate every HTTP request passes first: request id, size of headers and body, keys, strangers' web pages.

Plain ASGI, so that streams pass untouched. Whatever it refuses is refused before a body is read. On the way back it is
where errors of any kind become OpenAI's error body.
"""

import asyncio
import json
import logging
import re
import uuid
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

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

REQUEST_ID = b"x-request-id"
_log = logging.getLogger(__name__)
_GIVEN_ID = re.compile(r"[\x21-\x7e]{1,128}")


class Gate:
    """Lets a request through to the app, or answers it."""

    def __init__(self, app: ASGIApp, keys: KeyRing, http: HttpSection, names_responses: bool = True) -> None:
        """Stand before `app`; with `names_responses`, every response says its request's id."""
        self._app = app
        self._keys = keys
        self._http = http
        self._names_responses = names_responses

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        given = dict(headers).get(REQUEST_ID, b"").decode("latin-1")
        request_id = (given if _GIVEN_ID.fullmatch(given) else uuid.uuid4().hex).encode()

        has_started = False

        async def send_named(message: Message) -> None:
            nonlocal has_started
            if message["type"] == "http.response.start":
                has_started = True
            if message["type"] == "http.response.start" and self._names_responses:
                message = {**message, "headers": [*message.get("headers", ()), (REQUEST_ID, request_id)]}
            await send(message)

        try:
            scope[IS_TRUSTED] = self._check(scope["path"], headers)
            await self._app(scope, _limited(receive, self._http), send_named)
        except Exception as error:
            if has_started:
                raise
            answer = answer_to(error)
            if answer.status == 500:
                _log.error("request %s failed", request_id.decode(), exc_info=error)
            await _refuse(answer, send_named)

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


async def _refuse(error: RequestError, send: Send) -> None:
    body = json.dumps(error.body()).encode()
    headers = [(name.encode(), value.encode()) for name, value in error.headers().items()]
    headers += [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
