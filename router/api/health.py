"""GET /health, /ready, /metrics: for probes, for people who wait, for Prometheus."""

from dataclasses import asdict
from typing import Literal

from fastapi import APIRouter, Response
from typing_extensions import TypedDict

from router.api.openapi import describe
from router.api.replies import json_reply
from router.metrics import CONTENT_TYPE
from router.service import InferenceService

PUBLIC_PATHS = frozenset({"/health", "/ready"})
"""What nobody needs a key for."""


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


class ReadyAnswer(TypedDict):
    """Whether requests are served; if not, how far loading has come, 0 to 1."""

    ready: bool
    stage: str
    progress: float
    detail: str
    model: str
    system_fingerprint: str | None
    kernel_backend: str | None
    placement: str | None
    components: list[ComponentAnswer]


def health_routes(service: InferenceService) -> APIRouter:
    """Return the routes."""
    router = APIRouter()

    @router.get("/health", **describe("Say that the process answers", None, HealthAnswer))
    async def health() -> Response:  # pyright: ignore[reportUnusedFunction]
        return json_reply(HealthAnswer(status="ok"))

    @router.get("/ready", **describe("Say whether requests are served, and how far loading is", None, ReadyAnswer))
    async def ready() -> Response:  # pyright: ignore[reportUnusedFunction]
        readiness = await service.readiness()
        answer = ReadyAnswer(
            ready=readiness.is_ready,
            stage=readiness.stage,
            progress=readiness.progress,
            detail=readiness.detail,
            model=service.model.name,
            system_fingerprint=readiness.fingerprint,
            kernel_backend=readiness.kernel_backend,
            placement=readiness.placement,
            components=[ComponentAnswer(**asdict(component)) for component in readiness.components],
        )
        return json_reply(answer, status=200 if readiness.is_ready else 503)

    @router.get("/metrics", **describe("Metrics in Prometheus' text format", None, None))
    async def metrics() -> Response:  # pyright: ignore[reportUnusedFunction]
        return Response(await service.render_metrics(), media_type=CONTENT_TYPE)

    return router
