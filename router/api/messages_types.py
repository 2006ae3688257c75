"""Bodies and answers of Anthropic's `/v1/messages`."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from router.api.body import Body, Part

Cached = dict[str, Any] | None
"""`cache_control`: accepted anywhere; computed beginnings are found again by themselves."""


class ContentBlock(Part):
    """A piece of a message, of any type; which fields it may have depends on the type."""

    type: str
    text: str | None = None
    thinking: str | None = Field(default=None, description="Hand it back between tool calls")
    signature: str | None = Field(default=None, description="Accepted; not checked")
    id: str | None = None
    name: str | None = None
    input: dict[str, Any] | None = None
    tool_use_id: str | None = None
    content: "str | list[ContentBlock] | None" = None
    is_error: bool | None = Field(default=None, description="The model reads `Error: ` before the result")
    cache_control: Cached = None


class Message(Part):
    """A message."""

    role: Literal["user", "assistant", "system"]
    content: str | list[ContentBlock]


class MessagesTool(Part):
    """A tool that the client runs. Those that a server would run are passed over and named in a header."""

    type: str | None = None
    name: str | None = None
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    strict: bool | None = None
    cache_control: Cached = None
    eager_input_streaming: bool | None = Field(default=None, description="Accepted; a call's input comes when whole")


class MessagesToolChoice(Part):
    """Which tools may or must be called."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = Field(default=None, description="True: the turn ends with its first call")


class Thinking(Part):
    """Whether the thinking is shown, and by its budget the effort: below 4096 low, below 16384 medium, else high."""

    type: Literal["enabled", "adaptive", "disabled"]
    budget_tokens: Annotated[int, Field(ge=1, le=2**31)] | None = None
    display: Literal["summarized", "omitted"] | None = Field(default=None, description="summarized: the raw thinking")


class OutputFormat(Part):
    """The form of the answer."""

    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfig(Part):
    """Effort and form."""

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: OutputFormat | None = None


class CountTokensBody(Body):
    """What makes the prompt; all that `/v1/messages/count_tokens` reads."""

    model: Annotated[str, Field(max_length=256)]
    messages: Annotated[list[Message], Field(min_length=1)]
    system: str | list[ContentBlock] | None = None
    tools: list[MessagesTool] | None = None
    tool_choice: MessagesToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    cache_control: Cached = None

    unsupported: ClassVar[Mapping[str, str]] = {
        "container": "",
        "mcp_servers": "Offer the servers' tools as tools, and call them yourself.",
    }


class MessagesBody(CountTokensBody):
    """The body of `/v1/messages`."""

    max_tokens: Annotated[int, Field(ge=1, le=2**31)]
    stream: bool | None = None
    temperature: float | None = Field(default=None, description="1 if absent; 0 is greedy")
    top_p: float | None = None
    top_k: int | None = None
    stop_sequences: list[str] | None = None
    metadata: dict[str, Any] | None = Field(default=None, description="Accepted; nothing depends on it")
    service_tier: Literal["auto", "standard_only"] | None = None
    speed: Literal["standard"] | None = None


class ThinkingTokens(TypedDict):
    """Of the output's tokens."""

    thinking_tokens: int


class MessagesUsage(TypedDict):
    """Tokens. The prompt has `input_tokens` and those that were read from the cache together."""

    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int
    output_tokens_details: ThinkingTokens


class BlockAnswer(TypedDict):
    """A piece of an answer: text, thinking or tool_use."""

    type: Literal["text", "thinking", "tool_use"]
    text: NotRequired[str]
    thinking: NotRequired[str]
    signature: NotRequired[str]
    id: NotRequired[str]
    name: NotRequired[str]
    input: NotRequired[dict[str, Any]]


class MessagesAnswer(TypedDict):
    """An answer."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[BlockAnswer]
    stop_reason: str | None
    stop_sequence: str | None
    usage: MessagesUsage


class CountTokensAnswer(TypedDict):
    """How long the prompt is."""

    input_tokens: int
