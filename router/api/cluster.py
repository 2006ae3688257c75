"""PUT /cluster/workers: how many expert workers there are to be, for those who run the server."""

from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Annotated, ClassVar

from fastapi import APIRouter, Request, Response
from pydantic import Field
from typing_extensions import TypedDict

from cluster.errors import PlacementError
from router.api.body import Body, ignored_fields, read_body
from router.api.openapi import describe
from router.api.replies import IGNORED_FIELDS, header_text, json_reply
from router.auth import tenant
from router.errors import Forbidden, InvalidRequest

MAX_WORKERS = 128
"""More have no expert of a layer to hold: the largest published model has so many."""

Scale = Callable[[int], Awaitable[None]]
"""Asks for so many workers; raises PlacementError saying why there cannot be."""


class WorkersBody(Body):
    """How many expert workers there are to be."""

    unsupported: ClassVar[Mapping[str, str]] = {}
    num_workers: Annotated[int, Field(ge=0, le=MAX_WORKERS)]


class WorkersAnswer(TypedDict):
    """What is wanted from now on; `/ready` tells how far it has come."""

    num_workers: int


def cluster_routes(scale: Scale | None, operators: Collection[str]) -> APIRouter:
    """Return the routes; `operators` are names of keys, and `scale` is None where there are no workers."""
    router = APIRouter()

    @router.put("/cluster/workers", **describe("Add or remove expert workers", WorkersBody, WorkersAnswer))
    async def workers(request: Request) -> Response:  # pyright: ignore[reportUnusedFunction]
        if tenant() and tenant() not in operators:
            raise Forbidden("This API key may not change the cluster; edge.auth.operators names those that may.")
        body = await read_body(request, WorkersBody)
        if scale is None:
            raise InvalidRequest("This server is one process: it has no workers to add or remove.", "num_workers")
        try:
            await scale(body.num_workers)
        except PlacementError as error:
            raise InvalidRequest(str(error), "num_workers", "invalid_value") from error
        ignored = header_text(", ".join(ignored_fields(body)))
        headers = {IGNORED_FIELDS: ignored} if ignored else {}
        return json_reply(WorkersAnswer(num_workers=body.num_workers), headers)

    return router
