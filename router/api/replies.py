"""Answers that are not streams, and the headers that say what was ignored or understood otherwise."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from typing import Any, TypeVar

from fastapi import Request, Response

from router.api.sse import EventStream, wait_until_gone
from router.config import HttpSection
from router.generation import Generation
from router.requests import ChatUpdate, Started, TextUpdate, Usage

U = TypeVar("U", ChatUpdate, TextUpdate)
IGNORED_FIELDS = "x-expertmesh-ignored-fields"
NOTES = "x-expertmesh-notes"
SEED = "x-expertmesh-seed"
_NOT_IN_HEADERS = re.compile(r"[^\x20-\x7e]")
_MAX_HEADER_CHARS = 2000
_CLIENT_CLOSED_REQUEST = 499


def json_reply(value: Mapping[str, Any], headers: Mapping[str, str] | None = None, status: int = 200) -> Response:
    """Return `value` as a JSON response."""
    body = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    return Response(body, status, headers=dict(headers or {}), media_type="application/json")


def request_headers(started: Started, ignored: Iterable[str]) -> dict[str, str]:
    """Return what the headers say of a request: its seed, notes, and the fields that nothing reads."""
    headers = {SEED: str(started.seed)}
    if started.notes:
        headers[NOTES] = header_text("; ".join(started.notes))
    names = header_text(", ".join(ignored))
    return {**headers, IGNORED_FIELDS: names} if names else headers


def header_text(text: str) -> str:
    """Return `text` fit for a header, which has no space at its ends: a field may be named anything."""
    return _NOT_IN_HEADERS.sub("?", text)[:_MAX_HEADER_CHARS].strip()


async def whole_reply(
    request: Request,
    generation: Generation[U],
    fold: Callable[[U], None],
    answer: Callable[[Usage], Mapping[str, Any]],
    headers: Mapping[str, str],
) -> Response:
    """Return the answer of all updates; a client that leaves before ends the generation."""

    async def read() -> bool:
        async for update in generation:
            fold(update)
        return True

    async with generation:
        if not await while_connected(request, read()):
            return nobody()
        return json_reply(answer(generation.usage), headers)


async def stream_reply(
    request: Request,
    generation: Generation[Any],
    events: AsyncIterator[Mapping[str, Any]],
    headers: Mapping[str, str],
    http: HttpSection,
    kind: type[EventStream] = EventStream,
) -> Response:
    """Return a stream of `events`, which are made from the generation's updates and look as `kind` has them.

    The first update is waited for, for a while: an error until then is still a status.
    """
    try:
        is_there = await while_connected(request, generation.begin(http.keep_alive_s))
    except BaseException:
        await generation.aclose()
        raise
    if not is_there:
        await generation.aclose()
        return nobody()
    return kind(events, generation, headers, http.keep_alive_s, http.stalled_client_s)


async def while_connected(request: Request, work: Coroutine[Any, Any, bool]) -> bool:
    """Return what `work` gives; False, with the work cancelled, if the client leaves before."""
    task = asyncio.create_task(work)
    gone = asyncio.create_task(wait_until_gone(request.receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        return await task if task.done() else False
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


def nobody() -> Response:
    """Return what is said to a client that has left; nobody reads it."""
    return Response(status_code=_CLIENT_CLOSED_REQUEST)
