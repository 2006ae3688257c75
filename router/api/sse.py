"""Server-sent events: updates as they come, comments while nothing comes, an error inside the stream, `[DONE]`.

A client that leaves, or does not read for too long, ends its request: the generation is closed, whatever the cause.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Mapping
from typing import Any, Protocol

from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from router.errors import answer_to

KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"
_log = logging.getLogger(__name__)


class Closable(Protocol):
    """What is closed when the stream ends, however it ends."""

    async def aclose(self) -> None:
        """Free everything."""
        ...


class EventStream(StreamingResponse):
    """A response that sends events; `source` is closed at the end, whatever ends it."""

    def __init__(
        self,
        events: AsyncIterator[Mapping[str, Any]],
        source: Closable,
        headers: Mapping[str, str],
        keep_alive_s: float,
        stalled_client_s: float,
    ) -> None:
        """Send `events`, a comment after `keep_alive_s` of silence; a client that takes longer than `stalled_client_s`
        to read a piece is given up.
        """
        super().__init__((), headers={**headers, "cache-control": "no-store"}, media_type="text/event-stream")
        self._events = events
        self._source = source
        self._keep_alive_s = keep_alive_s
        self._stalled_client_s = stalled_client_s
        self._last_sent_s = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        tasks = [
            asyncio.create_task(self._write(send)),
            asyncio.create_task(wait_until_gone(receive)),
            asyncio.create_task(self._keep_alive(send)),
        ]
        try:
            await asyncio.wait(tasks[:2], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            await self._source.aclose()
        if isinstance(results[0], TimeoutError | OSError):
            _log.info("a client stopped reading its stream, which was ended")
        elif isinstance(results[0], Exception):
            raise results[0]

    async def _write(self, send: Send) -> None:
        await self._send(send, {"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        has_more = True
        while has_more:
            try:
                data = encode_event(await anext(self._events))
            except StopAsyncIteration:
                has_more, data = False, DONE
            except Exception as error:  # noqa: BLE001 - the client is told inside of the stream
                has_more, data = False, encode_event(_told(error)) + DONE
            await self._send_body(send, data, has_more)

    async def _keep_alive(self, send: Send) -> None:
        loop = asyncio.get_running_loop()
        while True:
            silence_s = loop.time() - self._last_sent_s if self._last_sent_s else 0.0
            if silence_s >= self._keep_alive_s:
                await self._send_body(send, KEEP_ALIVE, has_more=True)
                silence_s = 0.0
            await asyncio.sleep(self._keep_alive_s - silence_s)

    async def _send_body(self, send: Send, data: bytes, has_more: bool) -> None:
        await self._send(send, {"type": "http.response.body", "body": data, "more_body": has_more})

    async def _send(self, send: Send, message: Message) -> None:
        async with asyncio.timeout(self._stalled_client_s):
            await send(message)
        self._last_sent_s = asyncio.get_running_loop().time()


def _told(error: Exception) -> Mapping[str, Any]:
    answer = answer_to(error)
    if answer.status >= 500:
        _log.error("a stream failed", exc_info=error)
    return answer.body()


def encode_event(event: Mapping[str, Any]) -> bytes:
    """Return one event's bytes."""
    return b"data: " + json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


async def wait_until_gone(receive: Receive) -> None:
    """Return when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass
