"""What `/openapi.json` says of our routes: bodies that we read ourselves, answers, errors, streams."""

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from router.api.body import Body
from router.api.sse import EventStream
from router.errors import ErrorBody

TITLE = "Expertmesh"
DESCRIPTION = "OpenAI-compatible inference of gpt-oss models whose experts are split off from attention."
_REFERENCE = "#/components/schemas/{model}"
_ERRORS: Mapping[int, str] = {
    400: "The request cannot be served as it is",
    401: "No API key, or none that is known",
    403: "Without API keys only loopback is served",
    404: "No such model",
    408: "The body did not come in time",
    413: "The body is too large",
    429: "Every place is taken; try again",
    431: "The headers are too large",
    500: "A fault of the server",
    503: "The model cannot answer now; try again",
    504: "The request ran too long",
}


def describe(
    summary: str,
    body: type[Body] | None,
    answer: Any,
    is_streaming: bool = False,
    error: Any = ErrorBody,
    stream: type[EventStream] = EventStream,
) -> dict[str, Any]:
    """Return the arguments of a route's decorator; `answer` is the type of a whole answer, `error` that of an error."""
    # Without a schema: some readers hold it against each event, others against all of them as one text.
    content: dict[str, Any] = {stream.media_type: {}} if is_streaming else {}
    responses: dict[int | str, dict[str, Any]] = {200: {"description": "Done", "model": answer, "content": content}}
    responses |= {status: {"description": text, "model": error} for status, text in _ERRORS.items()}
    extra: dict[str, Any] = {}
    if body is not None:
        schema = {"$ref": _REFERENCE.format(model=body.__name__)}
        extra["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return {"summary": summary, "response_model": None, "responses": responses, "openapi_extra": extra}


def install_openapi(app: FastAPI, bodies: Sequence[type[Body]], has_keys: bool) -> None:
    """Let `app` describe the bodies that its routes read by themselves, and its keys."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(title=TITLE, version=app.version, description=DESCRIPTION, routes=app.routes)
            _, definitions = models_json_schema([(body, "validation") for body in bodies], ref_template=_REFERENCE)
            for operations in document["paths"].values():
                for operation in operations.values():
                    # The framework would answer a bad query so; we answer it with 400.
                    operation["responses"].pop("422", None)
            components = document.setdefault("components", {})
            components.setdefault("schemas", {}).update(definitions["$defs"])
            if has_keys:
                components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
                document["security"] = [{"key": []}]
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi
