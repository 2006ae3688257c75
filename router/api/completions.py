"""POST /v1/completions: prompts continued as they are, without any format."""

from collections.abc import AsyncIterator, Mapping
from typing import Any, cast

from fastapi import APIRouter, Request, Response

from router.api.body import ignored_fields, read_body
from router.api.completion_reply import CompletionReply
from router.api.completion_types import CompletionAnswer, CompletionBody
from router.api.openapi import describe
from router.api.options import to_options
from router.api.replies import request_headers, stream_reply, whole_reply
from router.api.structured_types import answer_grammar
from router.config import HttpSection
from router.errors import InvalidRequest
from router.generation import Generation
from router.requests import TextRequest, TextUpdate
from router.service import InferenceService

DEFAULT_MAX_TOKENS = 16
"""OpenAI's."""
MAX_SEQUENCES = 256
"""Prompts times choices in one request."""


def completion_routes(service: InferenceService, http: HttpSection) -> APIRouter:
    """Return the route."""
    router = APIRouter()

    @router.post("/v1/completions", **describe("Continue prompts", CompletionBody, CompletionAnswer, is_streaming=True))
    async def completions(request: Request) -> Response:  # pyright: ignore[reportUnusedFunction]
        body = await read_body(request, CompletionBody)
        asked = await text_request(service, body)
        generation = await service.complete(asked)
        num_choices = asked.options.num_choices
        prefixes = [service.tokenizer.decode(prompt) for prompt in asked.prompts for _ in range(num_choices)]
        has_logprobs = body.logprobs is not None
        reply = CompletionReply(generation.started, service.tokenizer, prefixes if body.echo else (), has_logprobs)
        headers = request_headers(generation.started, ignored_fields(body))
        if not body.stream:
            return await whole_reply(request, generation, reply.fold, reply.answer, headers)
        includes_usage = body.stream_options is not None and bool(body.stream_options.include_usage)
        return await stream_reply(request, generation, _events(generation, reply, includes_usage), headers, http)

    return router


async def text_request(service: InferenceService, body: CompletionBody, timeout_s: float | None = None) -> TextRequest:
    """Return what the body asks for; raises InvalidRequest naming field and value."""
    if body.stream_options is not None and not body.stream:
        raise InvalidRequest("stream_options is for streams only: set stream.", "stream_options", "invalid_value")
    if body.echo and body.logprobs is not None:
        message = "echo together with logprobs is not supported: there are no logprobs of the prompt."
        raise InvalidRequest(message, "echo", "unsupported_value")
    options = to_options(body, service.limits, body.max_tokens or DEFAULT_MAX_TOKENS, body.logprobs)
    prompts = await _prompts(service, body)
    if len(prompts) * options.num_choices > MAX_SEQUENCES:
        message = f"{len(prompts)} prompts with n = {options.num_choices} are more than {MAX_SEQUENCES} texts."
        raise InvalidRequest(message, "prompt", "invalid_value")
    return TextRequest(prompts, options, body.model, timeout_s, answer_grammar(body))


async def _events(
    generation: Generation[TextUpdate], reply: CompletionReply, includes_usage: bool
) -> AsyncIterator[Mapping[str, Any]]:
    async for update in generation:
        yield reply.chunk(update)
    if includes_usage:
        yield reply.usage_chunk(generation.usage)


async def _prompts(service: InferenceService, body: CompletionBody) -> tuple[tuple[int, ...], ...]:
    prompt = body.prompt
    if isinstance(prompt, str):
        prompts = (await service.encode(prompt),)
    elif all(isinstance(one, int) for one in prompt):
        prompts = (tuple(cast(list[int], prompt)),)
    else:
        several = cast(list[str | list[int]], prompt)
        if len(several) > MAX_SEQUENCES:
            message = f"prompt has {len(several)} entries; at most {MAX_SEQUENCES} are taken."
            raise InvalidRequest(message, "prompt", "invalid_value")
        prompts = tuple([await service.encode(one) if isinstance(one, str) else tuple(one) for one in several])
    if not prompts or not all(prompts):
        raise InvalidRequest("prompt has no tokens; it must have at least one.", "prompt", "invalid_value")
    return prompts
