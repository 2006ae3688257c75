"""create_app: the HTTP server as an ASGI application, whoever runs it.

Gate: id, limits, keys, errors ─▶ routes, one file a family ─▶ InferenceService
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route

from router.api.chat import chat_routes
from router.api.chat_types import ChatBody
from router.api.cluster import Scale, WorkersBody, cluster_routes
from router.api.completion_types import CompletionBody
from router.api.completions import completion_routes
from router.api.error_bodies import error_body
from router.api.gate import Gate
from router.api.health import health_routes
from router.api.messages import message_routes
from router.api.messages_types import CountTokensBody, MessagesBody
from router.api.models import model_routes
from router.api.ollama import ollama_model_routes, ollama_routes
from router.api.ollama_types import OllamaChatBody, OllamaGenerateBody, OllamaShowBody
from router.api.openapi import TITLE, install_openapi
from router.api.replies import json_reply
from router.api.responses import response_routes
from router.api.responses_service import Responses
from router.api.responses_types import ResponseBody
from router.api.tokenize import DetokenizeBody, TokenizeBody, tokenize_routes
from router.auth import KeyRing, load_keys
from router.config import Config, HttpSection
from router.errors import InvalidRequest, MethodNotAllowed, NotFound, RequestError
from router.service import InferenceService
from router.store import ResponseStore

_BODIES = (
    ChatBody,
    CompletionBody,
    ResponseBody,
    MessagesBody,
    CountTokensBody,
    OllamaChatBody,
    OllamaGenerateBody,
    OllamaShowBody,
    TokenizeBody,
    DetokenizeBody,
    WorkersBody,
)


def create_app(
    service: InferenceService,
    config: Config,
    keys: KeyRing | None = None,
    names_responses: bool = True,
    scale: Scale | None = None,
) -> FastAPI:
    """Return the application; `keys` are the config's unless given.

    A proxy that gives responses their request id itself is told of by `names_responses` false; `scale` changes the
    number of workers, where there are any.

    Whoever listens calls `router.auth.require_keys_off_loopback` first. CORS is closed.
    """
    keys = load_keys(config.edge.auth) if keys is None else keys
    responses = Responses(service, ResponseStore(config.edge.store))

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None, None]:
        await service.warm_up()
        await responses.open()
        yield
        await responses.close()

    app = FastAPI(title=TITLE, docs_url=None, redoc_url=None, lifespan=lifespan, redirect_slashes=False)
    families = (
        chat_routes(service, config.edge.http),
        completion_routes(service, config.edge.http),
        response_routes(responses, keys, config.edge.http),
        message_routes(service, config.edge.http),
        ollama_routes(service, config.edge.http),
        ollama_model_routes(service),
        model_routes(service),
        tokenize_routes(service),
        cluster_routes(scale, config.edge.auth.operators),
        health_routes(service),
    )
    app.state.routes = (*app.routes, *(route for routes in families for route in routes.routes))
    for routes in families:
        app.include_router(routes)
    app.add_exception_handler(HTTPException, _routing_error)
    app.add_exception_handler(RequestValidationError, _query_error)
    app.add_middleware(
        Gate, keys=keys, http=config.edge.http, new_meter=service.new_meter, names_responses=names_responses
    )
    install_openapi(app, _BODIES, has_keys=not keys.is_empty)
    return app


def uvicorn_config(app: FastAPI, http: HttpSection) -> uvicorn.Config:
    """Return how uvicorn should run `app`: limits on headers, no server header, no access log of its own."""
    return uvicorn.Config(
        app,
        host=http.host,
        port=http.port,
        http="h11",
        h11_max_incomplete_event_size=2 * http.max_header_bytes,
        access_log=False,
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=5,
    )


async def _routing_error(request: Request, error: Exception) -> Response:
    """Answer what the routing of the framework refuses."""
    assert isinstance(error, HTTPException), f"registered for HTTPException, got {error!r}"
    allowed: dict[str, str] = {}
    if error.status_code == 405:
        answer: RequestError = MethodNotAllowed(f"{request.url.path} does not take {request.method}.")
        allowed["allow"] = _methods_at(request)
    elif error.status_code == 404:
        answer = NotFound(f"There is no {request.url.path[:200]} here.")
    else:
        answer = InvalidRequest(str(error.detail))
    return json_reply(error_body(request.url.path, answer), {**answer.headers(), **allowed}, answer.status)


def _methods_at(request: Request) -> str:
    """Return the methods of all routes at a path: the framework names those of the first one only."""
    routes = [
        one
        for one in request.app.state.routes
        if isinstance(one, Route) and one.matches(request.scope)[0] != Match.NONE
    ]
    return ", ".join(sorted({method for route in routes for method in route.methods or ()}))


async def _query_error(request: Request, error: Exception) -> Response:
    """Answer a query parameter that the framework refuses; bodies are read by ourselves."""
    assert isinstance(error, RequestValidationError), f"registered for RequestValidationError, got {error!r}"
    problem = error.errors()[0]
    name = str(problem["loc"][-1])
    answer = InvalidRequest(f"{name}: {problem['msg']} (value: {str(problem['input'])[:120]!r})", name, "invalid_value")
    return json_reply(error_body(request.url.path, answer), answer.headers(), answer.status)
