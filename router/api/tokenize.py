"""POST /tokenize and /detokenize, GET /tokenizer_info: what the model would read, what ids say, what ends a text."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, NotRequired

from fastapi import APIRouter, Request, Response
from pydantic import Field
from typing_extensions import TypedDict

from model.vocabulary import END_OF_TEXT, RETURN
from router.api.body import Body, ignored_fields, read_body
from router.api.chat_request import to_chat_request
from router.api.chat_types import ChatBody, ChatMessage
from router.api.openapi import describe
from router.api.options import TokenId
from router.api.replies import IGNORED_FIELDS, header_text, json_reply
from router.errors import InvalidRequest
from router.service import InferenceService


class TokenizeBody(ChatBody):
    """Text, or a chat request whose prompt is wanted; of that, what does not reach the prompt has no effect."""

    prompt: str | None = Field(default=None, description="Text; or give messages")
    messages: list[ChatMessage] = Field(default_factory=list[ChatMessage])
    return_token_strs: bool | None = None


class DetokenizeBody(Body):
    """Token ids."""

    unsupported: ClassVar[Mapping[str, str]] = {}
    model: Annotated[str, Field(max_length=256)] | None = None
    tokens: Annotated[list[TokenId], Field(max_length=1_000_000)]


class TokenizeAnswer(TypedDict):
    """Token ids of a text or a prompt."""

    count: int
    max_model_len: int | None
    tokens: list[int]
    token_strs: NotRequired[list[str]]


class TokenizerAnswer(TypedDict):
    """What evaluation harnesses ask of a tokenizer that they reach by the two others."""

    bos_token: None
    eos_token: str
    pad_token: str


class DetokenizeAnswer(TypedDict):
    """The text of token ids."""

    prompt: str


def tokenize_routes(service: InferenceService) -> APIRouter:
    """Return the routes."""
    router = APIRouter()

    @router.post("/tokenize", **describe("Text or a chat request to token ids", TokenizeBody, TokenizeAnswer))
    async def tokenize(request: Request) -> Response:  # pyright: ignore[reportUnusedFunction]
        body = await read_body(request, TokenizeBody)
        service.check_model(body.model)
        ids = await _ids(service, body)
        answer = TokenizeAnswer(count=len(ids), max_model_len=await service.max_context_tokens(), tokens=list(ids))
        if body.return_token_strs:
            answer["token_strs"] = [service.tokenizer.token_text(token_id) for token_id in ids]
        return json_reply(answer, _headers(body))

    @router.post("/detokenize", **describe("Token ids to text", DetokenizeBody, DetokenizeAnswer))
    async def detokenize(request: Request) -> Response:  # pyright: ignore[reportUnusedFunction]
        body = await read_body(request, DetokenizeBody)
        service.check_model(body.model)
        return json_reply(DetokenizeAnswer(prompt=service.tokenizer.decode(body.tokens)), _headers(body))

    @router.get("/tokenizer_info", **describe("The tokens around a text", None, TokenizerAnswer))
    async def info() -> Response:  # pyright: ignore[reportUnusedFunction]
        end, padding = service.tokenizer.token_text(RETURN), service.tokenizer.token_text(END_OF_TEXT)
        return json_reply(TokenizerAnswer(bos_token=None, eos_token=end, pad_token=padding))

    return router


async def _ids(service: InferenceService, body: TokenizeBody) -> tuple[int, ...]:
    if (body.prompt is None) == (not body.messages):
        raise InvalidRequest("Give either prompt or messages.", "prompt", "invalid_value")
    if body.prompt is not None:
        return await service.encode(body.prompt)
    return (await service.render(to_chat_request(body, service.limits).conversation)).token_ids


def _headers(body: Body) -> dict[str, str]:
    names = header_text(", ".join(ignored_fields(body)))
    return {IGNORED_FIELDS: names} if names else {}
