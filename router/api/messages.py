"""POST /v1/messages and /v1/messages/count_tokens: Anthropic's API."""

from collections import deque
from collections.abc import AsyncIterator, Mapping
from typing import Any

from fastapi import APIRouter, Request, Response

from router.api.body import read_body
from router.api.error_bodies import AnthropicErrorBody
from router.api.messages_events import Event, MessageStream, MessageWriter
from router.api.messages_request import WORDING, ignored_in, shows_thinking, to_request
from router.api.messages_types import CountTokensAnswer, CountTokensBody, MessagesAnswer, MessagesBody
from router.api.openapi import describe
from router.api.replies import IGNORED_FIELDS, header_text, json_reply, request_headers, stream_reply, whole_reply
from router.config import HttpSection
from router.generation import Generation
from router.requests import ChatUpdate, Usage
from router.service import InferenceService

PATH = "/v1/messages"


def message_routes(service: InferenceService, http: HttpSection) -> APIRouter:
    """Return the routes."""
    router = APIRouter()

    def told(summary: str, body: Any, answer: Any, is_streaming: bool = False) -> dict[str, Any]:
        return describe(summary, body, answer, is_streaming, AnthropicErrorBody, MessageStream)

    @router.post(PATH, **told("Answer a conversation, Anthropic's way", MessagesBody, MessagesAnswer, True))
    async def messages(request: Request) -> Response:  # pyright: ignore[reportUnusedFunction]
        body = await read_body(request, MessagesBody)
        asked = to_request(body, service.limits)
        with WORDING.spoken():
            generation = await service.chat(asked)
            writer = MessageWriter(generation.started, shows_thinking(body))
            headers = request_headers(generation.started, ignored_in(body))
            if body.stream:
                return await stream_reply(
                    request, generation, _events(generation, writer), headers, http, MessageStream
                )

            def fold(update: ChatUpdate) -> None:
                deque(writer.on(update), maxlen=0)

            def whole(usage: Usage) -> Mapping[str, Any]:
                deque(writer.end(usage), maxlen=0)
                return writer.message

            return await whole_reply(request, generation, fold, whole, headers)

    @router.post(PATH + "/count_tokens", **told("Count a prompt's tokens", CountTokensBody, CountTokensAnswer))
    async def count_tokens(request: Request) -> Response:  # pyright: ignore[reportUnusedFunction]
        body = await read_body(request, CountTokensBody)
        asked = to_request(body, service.limits)
        service.check_model(asked.model)
        with WORDING.spoken():
            prompt = await service.render(asked.conversation)
        names = header_text(", ".join(ignored_in(body)))
        answer = CountTokensAnswer(input_tokens=len(prompt.token_ids))
        return json_reply(answer, {IGNORED_FIELDS: names} if names else {})

    return router


async def _events(generation: Generation[ChatUpdate], writer: MessageWriter) -> AsyncIterator[Event]:
    for event in writer.begin(generation.usage):
        yield event
    with WORDING.spoken():
        async for update in generation:
            for event in writer.on(update):
                yield event
    for event in writer.end(generation.usage):
        yield event
