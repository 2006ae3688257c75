"""POST /v1/responses, and what can be asked of stored ones: retrieve, delete, cancel, input_items."""

import json
from collections.abc import AsyncGenerator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response

from router.api.body import read_body
from router.api.openapi import describe
from router.api.replies import json_reply, nobody, request_headers, while_connected
from router.api.responses_answers import DeletedAnswer, Item, ItemListAnswer, ResponseAnswer
from router.api.responses_job import ResponseJob, Sent
from router.api.responses_request import WORDING, ignored_in
from router.api.responses_service import Responses
from router.api.responses_types import ResponseBody
from router.api.sse import EventStream, told
from router.auth import KeyRing
from router.config import HttpSection
from router.errors import InvalidRequest

PATH = "/v1/responses"
MAX_PAGE_ITEMS = 100
DEFAULT_PAGE_ITEMS = 20


class ResponseStream(EventStream):
    """Events with their names; the last one tells how the response ended, so nothing follows it."""

    ending = b""
    _last: Sent | None = None

    def encode(self, event: Sent) -> bytes:
        """Return one event's bytes."""
        self._last = event
        return b"event: " + event.kind.encode() + b"\ndata: " + event.data + b"\n\n"

    def encode_failure(self, error: Exception) -> bytes:
        """Return the event that says that the stream itself cannot go on."""
        answer = told(error)
        number = 0 if self._last is None else json.loads(self._last.data)["sequence_number"] + 1
        fields = {"code": answer.code, "message": answer.message, "param": answer.param}
        return self.encode(Sent.of({"type": "error", "sequence_number": number, **fields}))


class OpenResponsesStream(ResponseStream):
    """The same in the dialect of OpenResponses, which calls the events of reasoning text otherwise."""

    def encode(self, event: Sent) -> bytes:
        """Return one event's bytes."""
        told = event.kind.replace("response.reasoning_text.", "response.reasoning.")
        renamed = event.data.replace(f'"{event.kind}"'.encode(), f'"{told}"'.encode(), 1)
        return super().encode(Sent(told, renamed))


class _Follower:
    """What a stream that only follows a response closes at its end: nothing of the response's."""

    def __init__(self, events: AsyncGenerator[Sent, None]) -> None:
        self._events = events

    async def aclose(self) -> None:
        await self._events.aclose()


def stream_of(http: HttpSection) -> type[ResponseStream]:
    """Return the streams of the dialect that is spoken."""
    return OpenResponsesStream if http.responses_dialect == "openresponses" else ResponseStream


def response_routes(responses: Responses, keys: KeyRing, http: HttpSection) -> APIRouter:
    """Return the routes; what a key has stored is found by that key alone."""
    router = APIRouter()

    def owner_of(request: Request) -> str:
        return keys.owner(request.headers.get("authorization"))

    @router.post(PATH, **describe("Make a response", ResponseBody, ResponseAnswer, is_streaming=True))
    async def create(request: Request) -> Response:  # pyright: ignore[reportUnusedFunction]
        body = await read_body(request, ResponseBody)
        job = await responses.start(body, owner_of(request))
        headers = request_headers(job.generation.started, ignored_in(body))
        if body.background:
            return await _background(responses, job, bool(body.stream), headers, http)
        if body.stream:
            return await _stream(request, job, headers, http)
        return await _whole(request, job, headers)

    @router.get(PATH + "/{response_id}", **describe("A stored response", None, ResponseAnswer, is_streaming=True))
    async def retrieve(  # pyright: ignore[reportUnusedFunction]
        request: Request,
        response_id: str,
        stream: bool = False,
        starting_after: Annotated[int | None, Query(ge=-1, le=2**31)] = None,
    ) -> Response:
        stored = await responses.find(owner_of(request), response_id)
        if stream:
            events = responses.follow(stored, -1 if starting_after is None else starting_after)
            return stream_of(http)(events, _Follower(events), {}, http.keep_alive_s, http.stalled_client_s)
        if starting_after is not None:
            message = "starting_after is for streams only: set stream=true."
            raise InvalidRequest(message, "starting_after", "invalid_value")
        return json_reply(stored.response)

    @router.delete(PATH + "/{response_id}", **describe("Forget a stored response", None, DeletedAnswer))
    async def delete(request: Request, response_id: str) -> Response:  # pyright: ignore[reportUnusedFunction]
        await responses.delete(owner_of(request), response_id)
        return json_reply(DeletedAnswer(id=response_id, object="response", deleted=True))

    @router.post(PATH + "/{response_id}/cancel", **describe("Give up a background response", None, ResponseAnswer))
    async def cancel(request: Request, response_id: str) -> Response:  # pyright: ignore[reportUnusedFunction]
        return json_reply((await responses.cancel(owner_of(request), response_id)).response)

    @router.get(PATH + "/{response_id}/input_items", **describe("What it was made from", None, ItemListAnswer))
    async def input_items(  # pyright: ignore[reportUnusedFunction]
        request: Request,
        response_id: str,
        limit: Annotated[int, Query(ge=1, le=MAX_PAGE_ITEMS)] = DEFAULT_PAGE_ITEMS,
        order: Literal["asc", "desc"] = "desc",
        after: str | None = None,
    ) -> Response:
        items = await responses.items(owner_of(request), response_id)
        return json_reply(_page(items if order == "asc" else items[::-1], limit, after))

    return router


async def _whole(request: Request, job: ResponseJob, headers: dict[str, str]) -> Response:
    """Return the answer; what fails before it is whole is an error's status, and not stored."""

    async def read() -> bool:
        async for _ in job.steps():
            pass
        if job.writer.failure is not None:
            raise job.writer.failure
        job.writer.response["store"] = await job.keep(job) and job.writer.response["store"]
        return True

    async with job.generation:
        if not await while_connected(request, read()):
            await job.aclose()
            return nobody()
    return json_reply(job.writer.response, headers)


async def _stream(request: Request, job: ResponseJob, headers: dict[str, str], http: HttpSection) -> Response:
    """Return a stream; an error before the first token is still a status."""
    try:
        with WORDING.spoken():
            is_there = await while_connected(request, job.generation.begin(http.keep_alive_s))
    except BaseException:
        await job.generation.aclose()
        raise
    if not is_there:
        await job.generation.aclose()
        return nobody()
    return stream_of(http)(job.events(), job, headers, http.keep_alive_s, http.stalled_client_s)


async def _background(
    responses: Responses, job: ResponseJob, is_streaming: bool, headers: dict[str, str], http: HttpSection
) -> Response:
    queued: dict[str, Any] = {**job.writer.response}
    live = await responses.run_in_background(job)
    if not is_streaming:
        return json_reply(queued, headers)
    events = live.follow(-1)
    return stream_of(http)(events, _Follower(events), headers, http.keep_alive_s, http.stalled_client_s)


def _page(items: list[Item], limit: int, after: str | None) -> ItemListAnswer:
    if after is not None:
        places = [place for place, item in enumerate(items) if item["id"] == after]
        if not places:
            raise InvalidRequest(f"after is {after[:80]!r}, which is no item of this response.", "after")
        items = items[places[0] + 1 :]
    page = items[:limit]
    return {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
        "has_more": len(items) > limit,
    }
