"""Answers of `/v1/responses`: the response object, its items, lists of items."""

from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict

from router.api.chat_types import LogprobAnswer

Status = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
RUNNING: frozenset[str] = frozenset({"queued", "in_progress"})
"""The statuses that are not final."""


class TextPart(TypedDict):
    """A piece of an item: what was read, said or reasoned."""

    type: Literal["input_text", "output_text", "reasoning_text", "summary_text", "refusal"]
    text: NotRequired[str]
    refusal: NotRequired[str]
    annotations: NotRequired[list[Any]]
    logprobs: NotRequired[list[LogprobAnswer]]


class Item(TypedDict):
    """An item of input or output; which fields it has depends on its type."""

    id: str
    type: Literal["message", "reasoning", "function_call", "function_call_output"]
    status: NotRequired[Literal["in_progress", "completed", "incomplete"]]
    role: NotRequired[str]
    phase: NotRequired[Literal["commentary", "final_answer"]]
    content: NotRequired[list[TextPart]]
    summary: NotRequired[list[TextPart]]
    encrypted_content: NotRequired[str]
    call_id: NotRequired[str]
    name: NotRequired[str]
    arguments: NotRequired[str]
    output: NotRequired[str | list[TextPart]]


class InputTokensDetails(TypedDict):
    """Of the input's tokens."""

    cached_tokens: int
    cache_write_tokens: int


class OutputTokensDetails(TypedDict):
    """Of the output's tokens."""

    reasoning_tokens: int


class ResponseUsage(TypedDict):
    """Tokens of a response."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class FailureAnswer(TypedDict):
    """Why a response failed."""

    code: Literal["server_error", "rate_limit_exceeded", "invalid_prompt"]
    message: str


class IncompleteDetails(TypedDict):
    """Why a response is incomplete."""

    reason: Literal["max_output_tokens"]


class ResponseAnswer(TypedDict):
    """A response."""

    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: Status
    background: bool
    error: FailureAnswer | None
    incomplete_details: IncompleteDetails | None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    metadata: dict[str, str]
    model: str
    output: list[Item]
    parallel_tool_calls: bool
    previous_response_id: str | None
    prompt_cache_key: str | None
    reasoning: dict[str, Any]
    safety_identifier: str | None
    seed: int
    service_tier: Literal["default"]
    store: bool
    system_fingerprint: str
    temperature: float
    text: dict[str, Any]
    tool_choice: Any
    tools: list[dict[str, Any]]
    top_logprobs: int
    top_p: float
    presence_penalty: float
    frequency_penalty: float
    truncation: Literal["auto", "disabled"]
    usage: ResponseUsage | None
    user: str | None


class DeletedAnswer(TypedDict):
    """A response that is gone."""

    id: str
    object: Literal["response"]
    deleted: Literal[True]


class ItemListAnswer(TypedDict):
    """A page of the items that a response was made from."""

    object: Literal["list"]
    data: list[Item]
    first_id: str | None
    last_id: str | None
    has_more: bool
