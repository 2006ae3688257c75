"""POST /v1/chat/completions."""

from collections.abc import AsyncIterator, Mapping
from typing import Any

from fastapi import APIRouter, Request, Response

from router.api.body import ignored_fields, read_body
from router.api.chat_reply import ChatReply
from router.api.chat_request import ignored_tools, to_chat_request
from router.api.chat_types import ChatAnswer, ChatBody
from router.api.openapi import describe
from router.api.replies import request_headers, stream_reply, whole_reply
from router.config import HttpSection
from router.generation import Generation
from router.requests import ChatUpdate
from router.service import InferenceService


def chat_routes(service: InferenceService, http: HttpSection) -> APIRouter:
    """Return the route."""
    router = APIRouter()

    @router.post("/v1/chat/completions", **describe("Answer a conversation", ChatBody, ChatAnswer, is_streaming=True))
    async def chat_completions(request: Request) -> Response:  # pyright: ignore[reportUnusedFunction]
        body = await read_body(request, ChatBody)
        generation = await service.chat(to_chat_request(body, service.limits))
        headers = request_headers(generation.started, [*ignored_fields(body), *ignored_tools(body.tools)])
        shows_reasoning = not (body.reasoning is not None and body.reasoning.exclude)
        reply = ChatReply(generation.started, service.tokenizer, shows_reasoning, bool(body.logprobs))
        if not body.stream:
            return await whole_reply(request, generation, reply.fold, reply.answer, headers)
        includes_usage = body.stream_options is not None and bool(body.stream_options.include_usage)
        return await stream_reply(request, generation, _events(generation, reply, includes_usage), headers, http)

    return router


async def _events(
    generation: Generation[ChatUpdate], reply: ChatReply, includes_usage: bool
) -> AsyncIterator[Mapping[str, Any]]:
    async for update in generation:
        chunk = reply.chunk(update)
        if chunk is not None:
            yield chunk
    if includes_usage:
        yield reply.usage_chunk(generation.usage)
