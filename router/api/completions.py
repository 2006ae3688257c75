"""POST /v1/completions: prompts continued as they are, without any format."""

from collections.abc import AsyncIterator, Mapping
from typing import Any, cast

from fastapi import APIRouter, Request, Response

from cluster.grammar.constraint import GrammarSpec
from model.vocabulary import CALL, END_OF_TEXT, RETURN
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
from router.requests import Options, TextRequest, TextUpdate
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
        echoed = [prompt for prompt in asked.prompts for _ in range(num_choices)] if body.echo else ()
        reply = CompletionReply(generation.started, service.tokenizer, echoed, body.logprobs is not None)
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
    is_scored = bool(body.echo) and body.logprobs is not None
    if body.max_tokens == 0 and not is_scored:
        message = "max_tokens is 0; it must be at least 1 where echo and logprobs do not ask for the prompt's own."
        raise InvalidRequest(message, "max_tokens", "invalid_value")
    max_tokens = DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens
    options = to_options(body, service.limits, max_tokens, body.logprobs)
    prompts = await _prompts(service, body)
    if len(prompts) * options.num_choices > MAX_SEQUENCES:
        message = f"{len(prompts)} prompts with n = {options.num_choices} are more than {MAX_SEQUENCES} texts."
        raise InvalidRequest(message, "prompt", "invalid_value")
    grammar = answer_grammar(body)
    if is_scored:
        _check_scored(prompts, options, grammar)
    return TextRequest(prompts, options, body.model, timeout_s, grammar, is_scored)


def _check_scored(prompts: tuple[tuple[int, ...], ...], options: Options, grammar: GrammarSpec | None) -> None:
    """Refuse what would act on a prompt that is scored as if the model had written it."""
    unfit = {
        "presence_penalty": options.presence_penalty != 0.0,
        "frequency_penalty": options.frequency_penalty != 0.0,
        "min_tokens": options.min_tokens > 0,
        "guided_grammar": grammar is not None,
    }
    for field, is_asked in unfit.items():
        if is_asked:
            message = f"{field} is not supported together with echo and logprobs."
            raise InvalidRequest(message, field, "unsupported_value")
    ends = {*options.stop_token_ids, *(() if options.ignore_eos else (RETURN, CALL, END_OF_TEXT))}
    for found in (token_id for prompt in prompts for token_id in prompt[1:] if token_id in ends):
        message = f"prompt holds {found}, which ends a text: its logprobs are not given with echo."
        raise InvalidRequest(message, "prompt", "unsupported_value")


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
