"""Standard gRPC health: serving once the backend is ready, and no more once the server is leaving.

Nobody needs a key for it, so it has a limit: all watchers are fed by one poll, and there are MAX_WATCHERS at most.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, TypeAlias

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from router.service import InferenceService

MAX_WATCHERS = 64
WATCH_INTERVAL_S = 1.0
_Context = grpc.aio.ServicerContext[Any, Any]
_Status: TypeAlias = "health_pb2.HealthCheckResponse.ServingStatus"
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class Health(health_pb2_grpc.HealthServicer):
    """The state of the services that it knows, which is one state for all."""

    def __init__(self, service: InferenceService, known_services: tuple[str, ...]) -> None:
        """Tell of `service` by the names `known_services`."""
        self._service = service
        self._known_services = known_services
        self._num_watchers = 0
        self._is_leaving = False
        self._is_routed = True
        self._watched: _Status | None = None
        self._changed = asyncio.Event()
        self._poll: asyncio.Task[None] | None = None

    async def Check(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: _Context
    ) -> health_pb2.HealthCheckResponse:
        """Tell the state of now."""
        if request.service not in self._known_services:
            await context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return health_pb2.HealthCheckResponse(status=await self._status())

    async def Watch(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: _Context
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """Tell the state whenever it changes; end when the server leaves, which a watcher must not hold up."""
        if self._num_watchers >= MAX_WATCHERS:
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED, f"{MAX_WATCHERS} clients watch already, and no more may: use Check"
            )
        self._num_watchers += 1
        if self._poll is None:
            self._poll = asyncio.create_task(self._feed())
        last: _Status | None = None
        try:
            while True:
                changed, state = self._changed, self._seen(request)
                if state is not None and state != last:
                    last = state
                    yield health_pb2.HealthCheckResponse(status=state)
                elif self._is_leaving:
                    return
                else:
                    await changed.wait()
        finally:
            self._num_watchers -= 1

    def leave(self) -> None:
        """Say to all who watch, and to all who ask from now on, that this server takes no more calls."""
        self._is_leaving = True
        self._tell(_NOT_SERVING)

    def routed(self, is_routed: bool) -> None:
        """Take whether new calls are sent to this server; while none are, it says that it does not serve."""
        self._is_routed = is_routed
        if not is_routed:
            self._tell(_NOT_SERVING)

    def _seen(self, request: health_pb2.HealthCheckRequest) -> "_Status | None":
        return self._watched if request.service in self._known_services else _SERVICE_UNKNOWN

    async def _feed(self) -> None:
        """Poll for all watchers, as long as there are any."""
        while self._num_watchers:
            self._tell(await self._status())
            await asyncio.sleep(WATCH_INTERVAL_S)
        self._poll = self._watched = None

    def _tell(self, status: _Status) -> None:
        """Wake all watchers."""
        changed, self._changed, self._watched = self._changed, asyncio.Event(), status
        changed.set()

    async def _status(self) -> _Status:
        is_ready = (await self._service.readiness()).is_ready
        return _SERVING if is_ready and self._is_routed and not self._is_leaving else _NOT_SERVING
