"""The errors of the router, and the one place where errors become answers.

RouterError
├── ConfigInvalid            the config document cannot be used
├── PlatformRefused          this machine or its set-up cannot run what was asked
├── StartFailed              a part of the server could not start, or was ended from elsewhere
└── RequestError             an answer to the client, with status and OpenAI's error fields
    ├── InvalidRequest       400
    ├── Unauthenticated      401
    ├── Forbidden            403
    ├── NotFound             404
    │   └── ModelNotFound    404
    ├── MethodNotAllowed     405
    ├── BodyTooSlow          408
    ├── RequestTooLarge      413
    ├── HeadersTooLarge      431
    ├── Overloaded           429
    ├── ServerFailure        500
    │   └── OutOfMemory      500
    ├── Unavailable          503
    └── DeadlinePassed       504

`answer_to` turns any exception into a RequestError: the cluster's errors by the table below, anything unknown into a
ServerFailure whose text says nothing of the inside.
"""

from typing import ClassVar

from typing_extensions import TypedDict

from cluster.errors import (
    ClusterError,
    ContextOverflow,
    EngineError,
    EngineStopped,
    ExpertError,
    FrameError,
    HandshakeRefused,
    PlacementError,
    QueueFull,
    TokenUnknown,
    WorkerLost,
    WrongEpoch,
)
from model.errors import ModelError, TokenizerError


class RouterError(Exception):
    """Anything the router may be asked that it cannot do."""


class ConfigInvalid(RouterError):
    """The config document cannot be used; the message names source, field and value."""


class PlatformRefused(RouterError):
    """This machine or its set-up cannot run what was asked; the message says what to do."""


class StartFailed(RouterError):
    """A part of the server could not start, or was ended from elsewhere; the message names it and says why."""


class ErrorFields(TypedDict):
    """OpenAI's error object."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(TypedDict):
    """OpenAI's error body."""

    error: ErrorFields


class RequestError(RouterError):
    """An answer to the client: `status` over HTTP, `grpc_status` (a status code's name) over gRPC."""

    status: ClassVar[int] = 500
    grpc_status: ClassVar[str] = "INTERNAL"
    kind: ClassVar[str] = "server_error"
    default_code: ClassVar[str | None] = None

    def __init__(
        self, message: str, param: str | None = None, code: str | None = None, retry_after_s: int | None = None
    ) -> None:
        """Say what was wrong with which value and what to do; `param` names the field, e.g. `messages[0].content`."""
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or self.default_code
        self.retry_after_s = retry_after_s

    def body(self) -> ErrorBody:
        """Return OpenAI's error body."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}

    def headers(self) -> dict[str, str]:
        """Return the headers that belong to the answer."""
        return {} if self.retry_after_s is None else {"retry-after": str(self.retry_after_s)}


class InvalidRequest(RequestError):
    """The request cannot be served as it is."""

    status = 400
    grpc_status = "INVALID_ARGUMENT"
    kind = "invalid_request_error"


class Unauthenticated(RequestError):
    """No key, or none that is known."""

    status = 401
    grpc_status = "UNAUTHENTICATED"
    kind = "invalid_request_error"
    default_code = "invalid_api_key"

    def headers(self) -> dict[str, str]:
        """Return the challenge that HTTP asks for with 401."""
        return {"www-authenticate": "Bearer"}


class Forbidden(RequestError):
    """Not from there."""

    status = 403
    grpc_status = "PERMISSION_DENIED"
    kind = "invalid_request_error"
    default_code = "forbidden"


class NotFound(RequestError):
    """No such route or object."""

    status = 404
    grpc_status = "NOT_FOUND"
    kind = "invalid_request_error"
    default_code = "not_found"


class ModelNotFound(NotFound):
    """The request names a model that is not served here."""

    default_code = "model_not_found"


class MethodNotAllowed(RequestError):
    """The route exists, but not with this method."""

    status = 405
    grpc_status = "UNIMPLEMENTED"
    kind = "invalid_request_error"
    default_code = "method_not_allowed"


class BodyTooSlow(RequestError):
    """The body did not come in time."""

    status = 408
    grpc_status = "DEADLINE_EXCEEDED"
    kind = "invalid_request_error"
    default_code = "request_timeout"


class RequestTooLarge(RequestError):
    """The body is larger than the limit."""

    status = 413
    grpc_status = "INVALID_ARGUMENT"
    kind = "invalid_request_error"
    default_code = "request_too_large"


class HeadersTooLarge(RequestError):
    """The headers are larger than the limit."""

    status = 431
    grpc_status = "INVALID_ARGUMENT"
    kind = "invalid_request_error"
    default_code = "headers_too_large"


class Overloaded(RequestError):
    """Every place is taken; nothing was started, and the client may try again."""

    status = 429
    grpc_status = "RESOURCE_EXHAUSTED"
    kind = "rate_limit_error"
    default_code = "server_overloaded"


class ServerFailure(RequestError):
    """A fault of ours."""

    default_code = "internal_error"


class OutOfMemory(ServerFailure):
    """The engine had too little memory for a step with this request: the same request would fail again."""

    default_code = "out_of_memory"

    def headers(self) -> dict[str, str]:
        """Return what keeps OpenAI's clients from trying again by themselves."""
        return {"x-should-retry": "false"}


class Unavailable(RequestError):
    """The model cannot answer now, though it may soon."""

    status = 503
    grpc_status = "UNAVAILABLE"
    default_code = "unavailable"


class DeadlinePassed(RequestError):
    """The request lived longer than it may."""

    status = 504
    grpc_status = "DEADLINE_EXCEEDED"
    default_code = "timeout"


RETRY_AFTER_S = 1

# What errors mean to a client who cannot help it. Their own text is not shown: it may name addresses and files.
_ANSWERS: dict[type[BaseException], tuple[type[RequestError], str]] = {
    QueueFull: (Overloaded, "The queue is full. Try again in a moment."),
    EngineStopped: (Unavailable, "The engine stopped while the request ran. Try again."),
    EngineError: (Unavailable, "The engine cannot serve this request now. Try again."),
    WorkerLost: (Unavailable, "Experts were lost while the request ran. Try again."),
    WrongEpoch: (Unavailable, "Experts were moved while the request ran. Try again."),
    HandshakeRefused: (Unavailable, "The parts of the cluster do not agree with each other yet. Try again."),
    FrameError: (Unavailable, "The cluster's own protocol was broken. Try again."),
    ExpertError: (Unavailable, "An expert could not answer. Try again."),
    PlacementError: (Unavailable, "The experts have no place in the cluster now. Try again."),
    ClusterError: (Unavailable, "The cluster cannot answer now. Try again."),
    ModelError: (ServerFailure, "The model cannot be used: its files are not as they should be."),
    RouterError: (ServerFailure, "The server is not set up for this request."),
    TimeoutError: (DeadlinePassed, "The request took longer than it may and was stopped."),
}


_OUT_OF_MEMORY = ("out of memory", "outofmemoryerror", "memoryerror", "can't allocate memory", "cannot allocate memory")


def tells_of_memory(text: str | None) -> bool:
    """Return whether an engine's error says that memory ran out; torch has several words for it."""
    return text is not None and any(words in text.lower() for words in _OUT_OF_MEMORY)


def answer_to(error: BaseException) -> RequestError:
    """Return what the client is told about `error`: itself if it is an answer already."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, ContextOverflow):
        return InvalidRequest(str(error), code="context_length_exceeded")
    if isinstance(error, TokenizerError | TokenUnknown):
        return InvalidRequest(str(error), code="invalid_value")
    for ancestor in type(error).__mro__:
        if ancestor in _ANSWERS:
            answer, message = _ANSWERS[ancestor]
            return answer(message, retry_after_s=RETRY_AFTER_S if answer in {Overloaded, Unavailable} else None)
    return ServerFailure("The server failed at this request. It is not the request's fault.")
