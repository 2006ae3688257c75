"""Ollama's API below /api: chat, generate, and what its clients ask of a server and its models."""

import hashlib
import time
from collections.abc import Iterable
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse

from router.api.body import ignored_fields, read_body
from router.api.error_bodies import OllamaErrorBody
from router.api.ollama_reply import LineStream, OllamaReply, rfc3339
from router.api.ollama_request import (
    WORDING,
    chat_request,
    generate_request,
    ignored_in,
    raw_request,
    shows_thinking,
)
from router.api.ollama_types import (
    OllamaBody,
    OllamaChatAnswer,
    OllamaChatBody,
    OllamaDetails,
    OllamaGenerateAnswer,
    OllamaGenerateBody,
    OllamaModel,
    OllamaModels,
    OllamaShowAnswer,
    OllamaShowBody,
    OllamaVersion,
)
from router.api.openapi import describe
from router.api.replies import IGNORED_FIELDS, header_text, json_reply, request_headers, stream_reply, whole_reply
from router.config import HttpSection
from router.errors import InvalidRequest
from router.generation import Generation
from router.service import InferenceService, not_ready

API_VERSION = "0.12.11"
"""The release of Ollama whose API this is: clients ask for it to learn what they may send."""
ARCHITECTURE = "gptoss"
_CENTURY_S = 100 * 365 * 86_400
_DETAILS = OllamaDetails(format="safetensors", family=ARCHITECTURE, families=[ARCHITECTURE])


def ollama_routes(service: InferenceService, http: HttpSection) -> APIRouter:
    """Return the routes that generate."""
    router = APIRouter()

    def post(path: str, summary: str, body: Any, answer: Any) -> Any:
        return router.post(
            path, **describe(summary, body, answer, is_streaming=True, error=OllamaErrorBody, stream=LineStream)
        )

    async def answered(request: Request, body: OllamaBody, generation: Generation[Any], began_ns: int) -> Response:
        is_chat = isinstance(body, OllamaChatBody)
        reply = OllamaReply(generation.started, service.tokenizer, is_chat, shows_thinking(body), began_ns)
        headers = request_headers(generation.started, ignored_in(body))
        if body.stream is False:
            return await whole_reply(request, generation, reply.fold, reply.answer, headers)
        return await stream_reply(request, generation, reply.lines(generation), headers, http, LineStream)

    @post("/api/chat", "Answer a conversation, Ollama's way", OllamaChatBody, OllamaChatAnswer)
    async def chat(request: Request) -> Response:  # pyright: ignore[reportUnusedFunction]
        began_ns = time.monotonic_ns()
        body = await read_body(request, OllamaChatBody)
        with WORDING.spoken():
            await _check(service, body)
            if not body.messages:
                return await _loaded(service, body, is_chat=True)
            generation = await service.chat(chat_request(body, service.limits))
            return await answered(request, body, generation, began_ns)

    @post("/api/generate", "Answer or continue a prompt, Ollama's way", OllamaGenerateBody, OllamaGenerateAnswer)
    async def generate(request: Request) -> Response:  # pyright: ignore[reportUnusedFunction]
        began_ns = time.monotonic_ns()
        body = await read_body(request, OllamaGenerateBody)
        with WORDING.spoken():
            await _check(service, body)
            if not body.prompt and not body.system:
                return await _loaded(service, body, is_chat=False)
            if body.raw:
                prompt_ids = await service.encode(body.prompt or "")
                text = await service.complete(raw_request(body, prompt_ids, service.limits))
                return await answered(request, body, text, began_ns)
            generation = await service.chat(generate_request(body, service.limits))
            return await answered(request, body, generation, began_ns)

    return router


def ollama_model_routes(service: InferenceService) -> APIRouter:
    """Return the routes that tell of the server and its one model."""
    router = APIRouter()

    def told(summary: str, body: Any, answer: Any) -> dict[str, Any]:
        return describe(summary, body, answer, error=OllamaErrorBody)

    about_root = told("Say that the server runs, for clients that look here first", None, None)

    @router.get("/", response_class=PlainTextResponse, **about_root)
    async def root() -> Response:  # pyright: ignore[reportUnusedFunction]
        return PlainTextResponse("Expertmesh is running")

    @router.get("/api/tags", **told("List the models, Ollama's way", None, OllamaModels))
    async def tags() -> Response:  # pyright: ignore[reportUnusedFunction]
        return json_reply(OllamaModels(models=[await _model(service)]))

    @router.get("/api/ps", **told("List the models that are loaded, Ollama's way", None, OllamaModels))
    async def ps() -> Response:  # pyright: ignore[reportUnusedFunction]
        if not (await service.readiness()).is_ready:
            return json_reply(OllamaModels(models=[]))
        model = await _model(service)
        model["expires_at"] = rfc3339(service.created_s + _CENTURY_S)
        max_context_tokens = await service.max_context_tokens()
        if max_context_tokens is not None:
            model["context_length"] = max_context_tokens
        return json_reply(OllamaModels(models=[model]))

    @router.post("/api/show", **told("Tell of the model, Ollama's way", OllamaShowBody, OllamaShowAnswer))
    async def show(request: Request) -> Response:  # pyright: ignore[reportUnusedFunction]
        body = await read_body(request, OllamaShowBody)
        name = body.model or body.name
        if name is None:
            raise InvalidRequest("model is missing.", "model", "missing_required_parameter")
        service.check_model(name.removesuffix(":latest"))
        return json_reply(await _shown(service), _headers(ignored_fields(body)))

    @router.get("/api/version", **told("Tell which of Ollama's APIs this is", None, OllamaVersion))
    async def version() -> Response:  # pyright: ignore[reportUnusedFunction]
        return json_reply(OllamaVersion(version=API_VERSION))

    return router


async def _check(service: InferenceService, body: OllamaBody) -> None:
    """Raise InvalidRequest if the request wants a larger context than there is."""
    wanted, given = body.options.num_ctx if body.options else None, await service.max_context_tokens()
    if wanted is not None and given is not None and wanted > given:
        message = f"options.num_ctx is {wanted}; the server was started with a context of {given} tokens."
        raise InvalidRequest(message, "options.num_ctx", "unsupported_value")


async def _loaded(service: InferenceService, body: OllamaBody, is_chat: bool) -> Response:
    """Answer a request that only wants the model to be there."""
    service.check_model(body.model.removesuffix(":latest"))
    readiness = await service.readiness()
    if not readiness.is_ready:
        raise not_ready(readiness)
    line: dict[str, Any] = {"message": {"role": "assistant", "content": ""}} if is_chat else {"response": ""}
    stamp = {"model": service.model.name, "created_at": rfc3339(time.time())}
    return json_reply({**stamp, **line, "done": True, "done_reason": "load"}, _headers(ignored_in(body)))


async def _model(service: InferenceService) -> OllamaModel:
    """Return the served model. Its digest tells apart what would answer differently."""
    name, fingerprint = service.model.name, (await service.readiness()).fingerprint or ""
    return {
        "name": name,
        "model": name,
        "modified_at": rfc3339(service.created_s),
        "digest": hashlib.sha256(f"{name} {fingerprint}".encode()).hexdigest(),
        "details": _DETAILS,
    }


async def _shown(service: InferenceService) -> OllamaShowAnswer:
    info: dict[str, Any] = {"general.architecture": ARCHITECTURE, "general.basename": service.model.name}
    max_context_tokens = await service.max_context_tokens()
    if max_context_tokens is not None:
        info[f"{ARCHITECTURE}.context_length"] = max_context_tokens
    return {
        "modelfile": f"FROM {service.model.name}",
        "parameters": "",
        "template": "",
        "details": _DETAILS,
        "model_info": info,
        "capabilities": ["completion", "tools", "thinking"],
        "modified_at": rfc3339(service.created_s),
    }


def _headers(ignored: Iterable[str]) -> dict[str, str]:
    names = header_text(", ".join(ignored))
    return {IGNORED_FIELDS: names} if names else {}
