"""The sampling fields that the families share, in OpenAI's names and vLLM's for the rest, and what they mean to us."""

from typing import Annotated

from pydantic import Field

from model.vocabulary import VOCAB_SIZE
from router.api.body import Body
from router.config import LimitsSection
from router.errors import InvalidRequest
from router.requests import Options

MAX_STOP_CHARS = 1024
MAX_LOGIT_BIASES = 1024
_SMALLEST_TOP_P = 1e-9
TokenId = Annotated[int, Field(ge=0, lt=VOCAB_SIZE)]


class SamplingBody(Body):
    """Fields of every generating endpoint. Null means the default."""

    model: Annotated[str, Field(max_length=256)] | None = Field(default=None, description="Must be what is served")
    n: Annotated[int, Field(ge=1, le=2**31)] | None = Field(default=None, description="Choices")
    stream: bool | None = Field(default=None, description="Send server-sent events")
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = Field(
        default=None,
        description="The same request with the same seed gives the same tokens; drawn and returned if absent",
    )
    temperature: Annotated[float, Field(ge=0, le=2)] | None = Field(
        default=None, description="1 if absent; 0 is greedy"
    )
    top_p: Annotated[float, Field(ge=0, le=1)] | None = Field(default=None, description="1 if absent")
    top_k: Annotated[int, Field(ge=-1, le=2**31)] | None = Field(default=None, description="0 or -1: off")
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    logit_bias: (
        Annotated[dict[str, Annotated[float, Field(ge=-100, le=100)]], Field(max_length=MAX_LOGIT_BIASES)] | None
    ) = Field(default=None, description="Bias by token id")
    stop: str | list[str] | None = Field(default=None, description="Strings that end the text and are not part of it")
    stop_token_ids: list[TokenId] | None = None
    ignore_eos: bool | None = None
    min_tokens: Annotated[int, Field(ge=0, le=2**31)] | None = None
    priority: Annotated[int, Field(ge=-(2**31), lt=2**31)] | None = Field(
        default=None, description="0 if absent; lower numbers are begun first"
    )
    timeout: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="Seconds after which the request ends, done or not"
    )
    user: str | None = Field(default=None, description="Accepted; nothing depends on it")


def to_options(body: SamplingBody, limits: LimitsSection, max_tokens: int | None, num_logprobs: int | None) -> Options:
    """Return the options of a body; raises InvalidRequest for what is beyond the limits."""
    num_choices = body.n or 1
    if num_choices > limits.max_choices:
        raise InvalidRequest(
            f"n is {num_choices}; at most {limits.max_choices} choices are made.", "n", "invalid_value"
        )
    if num_logprobs is not None and num_logprobs > limits.max_logprobs:
        field = "top_logprobs" if "top_logprobs" in type(body).model_fields else "logprobs"
        message = f"{field} is {num_logprobs}; at most {limits.max_logprobs} are given."
        raise InvalidRequest(message, field, "invalid_value")
    if body.priority is not None and body.priority < limits.min_priority:
        message = f"priority is {body.priority}; it must be at least {limits.min_priority} here."
        raise InvalidRequest(message, "priority", "invalid_value")
    return Options(
        num_choices=num_choices,
        max_tokens=max_tokens,
        seed=body.seed,
        temperature=1.0 if body.temperature is None else body.temperature,
        # OpenAI allows 0, which leaves only the best token.
        top_p=1.0 if body.top_p is None else max(body.top_p, _SMALLEST_TOP_P),
        top_k=body.top_k if body.top_k is not None and body.top_k > 0 else None,
        min_p=body.min_p or 0.0,
        presence_penalty=body.presence_penalty or 0.0,
        frequency_penalty=body.frequency_penalty or 0.0,
        repetition_penalty=1.0 if body.repetition_penalty is None else body.repetition_penalty,
        logit_bias=_biases(body.logit_bias or {}),
        stop=_stops(body.stop, limits),
        stop_token_ids=tuple(body.stop_token_ids or ()),
        ignore_eos=bool(body.ignore_eos),
        min_tokens=body.min_tokens or 0,
        num_logprobs=num_logprobs,
        priority=body.priority or 0,
        timeout_s=body.timeout,
    )


def _stops(stop: str | list[str] | None, limits: LimitsSection) -> tuple[str, ...]:
    stops = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if len(stops) > limits.max_stop_strings:
        message = f"stop has {len(stops)} strings; at most {limits.max_stop_strings} are looked for."
        raise InvalidRequest(message, "stop", "invalid_value")
    for text in stops:
        if not text or len(text) > MAX_STOP_CHARS:
            message = f"stop has a string of {len(text)} characters; it must have 1 to {MAX_STOP_CHARS}."
            raise InvalidRequest(message, "stop", "invalid_value")
    return stops


def _biases(biases: dict[str, float]) -> tuple[tuple[int, float], ...]:
    found: dict[int, float] = {}
    for key, bias in biases.items():
        if not (key.isascii() and key.isdigit() and len(key) <= 6 and int(key) < VOCAB_SIZE):
            message = f"logit_bias has the key {key[:40]!r}, which is no token id below {VOCAB_SIZE}."
            raise InvalidRequest(message, "logit_bias", "invalid_value")
        found[int(key)] = bias
    return tuple(found.items())
