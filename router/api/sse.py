"""Server-sent events: updates as they come, comments while nothing comes, an error inside the stream, `[DONE]`.

A client that leaves, or does not read for too long, ends its request: the generation is closed, whatever the cause.
"""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any, Protocol

from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from router.errors import RequestError, answer_to

KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"
_log = logging.getLogger(__name__)
_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
"""Made once: `json.dumps` with these would make one for each event."""


class Closable(Protocol):
    """What is closed when the stream ends, however it ends."""

    async def aclose(self) -> None:
        """Free everything."""
        ...


class EventStream(StreamingResponse):
    """A response that sends events; `source` is closed at the end, whatever ends it.

    A family whose events look otherwise says so in `encode`, `encode_failure`, `ending` and `keep_alive`.
    """

    ending = DONE
    keep_alive = KEEP_ALIVE
    """What is sent while nothing comes; empty: nothing."""
    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncIterator[Any],
        source: Closable,
        headers: Mapping[str, str],
        keep_alive_s: float,
        stalled_client_s: float,
    ) -> None:
        """Send `events`, a comment after `keep_alive_s` of silence; a client that takes longer than `stalled_client_s`
        to read a piece is given up.
        """
        super().__init__((), headers={**headers, "cache-control": "no-store"})
        self._events = events
        self._source = source
        self._keep_alive_s = keep_alive_s
        self._stalled_client_s = stalled_client_s
        self._last_sent_s = 0.0
        self._send_began_s: float | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        writing = asyncio.create_task(self._write(send))
        tasks = [writing, asyncio.create_task(wait_until_gone(receive)), asyncio.create_task(self._watch(send))]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._source.aclose()
        error = None if writing.cancelled() else writing.exception()
        if error is not None and not isinstance(error, OSError):
            raise error

    def encode(self, event: Any) -> bytes:
        """Return one event's bytes."""
        return encode_event(event)

    def encode_failure(self, error: Exception) -> bytes:
        """Return what a client is told inside of the stream when it cannot go on."""
        return encode_event(told(error).body()) + self.ending

    async def _write(self, send: Send) -> None:
        await self._send(send, {"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        has_more = True
        while has_more:
            try:
                data = self.encode(await anext(self._events))
            except StopAsyncIteration:
                has_more, data = False, self.ending
            except Exception as error:  # noqa: BLE001 - the client is told inside of the stream
                has_more, data = False, self.encode_failure(error)
            await self._send(send, {"type": "http.response.body", "body": data, "more_body": has_more})

    async def _watch(self, send: Send) -> None:
        """Send comments while nothing comes; return once a piece has waited too long for its reader.

        A watch of its own, because a deadline around each piece costs as much as writing it.
        """
        while True:
            await asyncio.sleep(min(self._keep_alive_s, self._stalled_client_s) / 4)
            now_s = time.monotonic()
            if self._send_began_s is not None:
                if now_s - self._send_began_s >= self._stalled_client_s:
                    _log.info("a client stopped reading its stream, which was ended")
                    return
            elif self.keep_alive and self._last_sent_s and now_s - self._last_sent_s >= self._keep_alive_s:
                async with asyncio.timeout(self._stalled_client_s):
                    await self._send(send, {"type": "http.response.body", "body": self.keep_alive, "more_body": True})

    async def _send(self, send: Send, message: Message) -> None:
        self._send_began_s = time.monotonic()
        await send(message)
        self._last_sent_s = time.monotonic()
        self._send_began_s = None


def told(error: Exception) -> RequestError:
    """Return what a client is told about an error inside of a stream; what is our fault is logged."""
    answer = answer_to(error)
    if answer.status == 500:
        _log.error("a stream failed", exc_info=error)
    return answer


def encode_event(event: Mapping[str, Any]) -> bytes:
    """Return one event's bytes."""
    return b"data: " + encode_json(event) + b"\n\n"


def encode_json(value: Mapping[str, Any]) -> bytes:
    """Return an object as one line of JSON."""
    return _JSON.encode(value).encode()


async def wait_until_gone(receive: Receive) -> None:
    """Return when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass
