"""What metrics call an endpoint. Few names, none of them a client's: a label must not grow with what is asked for."""

_BY_PATH = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completion",
    "/tokenize": "tokenize",
    "/detokenize": "detokenize",
    "/tokenizer_info": "tokenize",
    "/cluster/workers": "cluster",
}
_BY_PREFIX = {"/v1/responses": "responses", "/v1/models": "models", "/v1/messages": "messages", "/api": "ollama"}
_BY_METHOD = {
    "Chat": "chat",
    "Generate": "completion",
    "Tokenize": "tokenize",
    "Detokenize": "detokenize",
    "ListModels": "models",
}
_UNCOUNTED = {"/", "/health", "/ready", "/metrics", "/openapi.json"}
"""Probes and documents come by the clock and would drown what people ask for."""
OTHER = "other"


def endpoint_of_path(path: str) -> str | None:
    """Return the name of an HTTP endpoint; None for what is not counted."""
    if path in _UNCOUNTED:
        return None
    prefixes = (name for prefix, name in _BY_PREFIX.items() if path == prefix or path.startswith(f"{prefix}/"))
    return _BY_PATH.get(path) or next(prefixes, OTHER)


def endpoint_of_method(method: str) -> str:
    """Return the name of a gRPC method, given as `/package.Service/Method`."""
    return _BY_METHOD.get(method.rpartition("/")[2], OTHER)
