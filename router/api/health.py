"""GET /health, /ready, /metrics: for probes, for people who wait, for Prometheus."""

from dataclasses import asdict
from typing import Literal, NotRequired

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse
from typing_extensions import TypedDict

from router.api.openapi import describe
from router.api.replies import json_reply
from router.backend import Readiness
from router.metrics import CONTENT_TYPE
from router.service import InferenceService

PUBLIC_PATHS = frozenset({"/health", "/ready"})
"""What nobody needs a key for."""
IS_TRUSTED = "expertmesh.is_trusted"
"""Where the gate notes in a request's scope whether the client has shown a key, or needs none."""


class HealthAnswer(TypedDict):
    """The process answers."""

    status: Literal["ok"]


class ComponentAnswer(TypedDict):
    """How far one part has come."""

    name: str
    stage: str
    progress: float
    is_ready: bool
    detail: str
    role: str
    done: int
    total: int


class ReadyAnswer(TypedDict):
    """Whether requests are served; if not, how far loading has come, 0 to 1.

    The rest names addresses and files inside: it is for those who have a key, or need none.
    """

    ready: bool
    stage: str
    progress: float
    detail: NotRequired[str]
    model: NotRequired[str]
    system_fingerprint: NotRequired[str | None]
    kernel_backend: NotRequired[str | None]
    placement: NotRequired[str | None]
    components: NotRequired[list[ComponentAnswer]]


def health_routes(service: InferenceService) -> APIRouter:
    """Return the routes."""
    router = APIRouter()

    @router.get("/health", **describe("Say that the process answers", None, HealthAnswer))
    async def health() -> Response:  # pyright: ignore[reportUnusedFunction]
        return json_reply(HealthAnswer(status="ok"))

    @router.get("/ready", **describe("Say whether requests are served, and how far loading is", None, ReadyAnswer))
    async def ready(request: Request) -> Response:  # pyright: ignore[reportUnusedFunction]
        readiness = await service.readiness(max_age_s=0.0)
        is_trusted = request.scope[IS_TRUSTED]
        answer = _in_full(service.model.name, readiness) if is_trusted else _summary(readiness)
        return json_reply(answer, status=200 if readiness.is_ready else 503)

    about_metrics = describe("Metrics in Prometheus' text format", None, None)

    @router.get("/metrics", response_class=PlainTextResponse, **about_metrics)
    async def metrics() -> Response:  # pyright: ignore[reportUnusedFunction]
        return Response(await service.render_metrics(), media_type=CONTENT_TYPE)

    return router


def _summary(readiness: Readiness) -> ReadyAnswer:
    return ReadyAnswer(ready=readiness.is_ready, stage=readiness.stage, progress=readiness.progress)


def _in_full(model: str, readiness: Readiness) -> ReadyAnswer:
    answer = _summary(readiness)
    answer["detail"] = readiness.detail
    answer["model"] = model
    answer["system_fingerprint"] = readiness.fingerprint
    answer["kernel_backend"] = readiness.kernel_backend
    answer["placement"] = readiness.placement
    answer["components"] = [ComponentAnswer(**asdict(component)) for component in readiness.components]
    return answer
