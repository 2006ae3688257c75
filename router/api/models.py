"""GET /v1/models: the one model that is served."""

from typing import Literal, NotRequired

from fastapi import APIRouter, Response
from typing_extensions import TypedDict

from router.api.openapi import describe
from router.api.replies import json_reply
from router.service import InferenceService


class ModelAnswer(TypedDict):
    """A model."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: NotRequired[int]


class ModelsAnswer(TypedDict):
    """All models."""

    object: Literal["list"]
    data: list[ModelAnswer]


def model_routes(service: InferenceService) -> APIRouter:
    """Return the routes."""
    router = APIRouter()

    async def model() -> ModelAnswer:
        answer = ModelAnswer(id=service.model.name, object="model", created=service.created_s, owned_by="expertmesh")
        max_context_tokens = await service.max_context_tokens()
        if max_context_tokens is not None:
            answer["max_model_len"] = max_context_tokens
        return answer

    @router.get("/v1/models", **describe("List the models", None, ModelsAnswer))
    async def list_models() -> Response:  # pyright: ignore[reportUnusedFunction]
        return json_reply(ModelsAnswer(object="list", data=[await model()]))

    @router.get("/v1/models/{model_id:path}", **describe("Tell of one model", None, ModelAnswer))
    async def retrieve_model(model_id: str) -> Response:  # pyright: ignore[reportUnusedFunction]
        service.check_model(model_id)
        return json_reply(await model())

    return router
