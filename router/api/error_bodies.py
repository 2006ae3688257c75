"""What an error looks like at a path: OpenAI's body, Anthropic's below /v1/messages, Ollama's below /api."""

from collections.abc import Mapping
from typing import Any, Literal

from typing_extensions import TypedDict

from router.errors import RequestError

_ANTHROPIC_KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class AnthropicErrorFields(TypedDict):
    """Anthropic's error object."""

    type: str
    message: str


class AnthropicErrorBody(TypedDict):
    """Anthropic's error body."""

    type: Literal["error"]
    error: AnthropicErrorFields


class OllamaErrorBody(TypedDict):
    """Ollama's error body, and its last line in a stream that failed."""

    error: str


def error_body(path: str, error: RequestError) -> Mapping[str, Any]:
    """Return the body of an error at `path`."""
    if _is_below(path, "/api"):
        return ollama_error(error)
    return anthropic_error(error) if _is_below(path, "/v1/messages") else error.body()


def anthropic_error(error: RequestError) -> AnthropicErrorBody:
    """Return Anthropic's body."""
    kind = _ANTHROPIC_KINDS.get(error.status, "invalid_request_error")
    return {"type": "error", "error": {"type": kind, "message": error.message}}


def ollama_error(error: RequestError) -> OllamaErrorBody:
    """Return Ollama's body."""
    return {"error": error.message}


def _is_below(path: str, prefix: str) -> bool:
    return path == prefix or path.startswith(f"{prefix}/")
