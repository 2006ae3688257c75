"""Bodies and answers of `/v1/chat/completions`."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from router.api.body import Part
from router.api.structured_types import StructuredBody

EffortName = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class ContentPart(Part):
    """A piece of a message; only text is understood."""

    type: str
    text: str | None = None
    refusal: str | None = None


class CalledFunction(Part):
    """Name and arguments of a call."""

    name: str
    arguments: str = ""


class AssistantCall(Part):
    """A call that the assistant made."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class ChatMessage(Part):
    """A message of any role; which fields it may have depends on the role."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[ContentPart] | None = None
    name: str | None = None
    reasoning: str | None = Field(default=None, description="Of an assistant: hand it back between tool calls")
    reasoning_content: str | None = Field(default=None, description="The same as `reasoning`")
    refusal: str | None = None
    tool_calls: list[AssistantCall] | None = None
    tool_call_id: str | None = Field(default=None, description="Of a tool: the call that it answers")


class FunctionDefinition(Part):
    """A function that the client runs."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = Field(default=None, description="JSON schema of the arguments")
    strict: bool | None = None


class Tool(Part):
    """A tool: `function`, or the built-in `python` (also called `code_interpreter`), which the client runs too."""

    type: str
    function: FunctionDefinition | None = None


class NamedTool(Part):
    """The tool that has to be called."""

    type: str
    function: CalledFunction | None = None


class StreamOptions(Part):
    """Options of a stream."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = Field(default=None, description="Accepted; nothing is obfuscated")


class ReasoningOptions(Part):
    """Effort and visibility of reasoning."""

    effort: EffortName | None = None
    exclude: bool | None = Field(default=None, description="Keep reasoning out of the answer")


class ChatBody(StructuredBody):
    """The body of a chat request."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = Field(default=None, description="False: the turn ends with its first call")
    reasoning_effort: EffortName | None = None
    reasoning: ReasoningOptions | None = None
    max_tokens: Annotated[int, Field(ge=1, le=2**31)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=2**31)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=2**31)] | None = None
    stream_options: StreamOptions | None = None
    modalities: list[Literal["text"]] | None = Field(default=None, description="Accepted; it is always text")
    service_tier: Literal["auto", "default"] | None = Field(default=None, description="Accepted; there is one tier")
    verbosity: Literal["medium"] | None = Field(default=None, description="Accepted; the model was trained for one")
    metadata: dict[str, Any] | None = Field(default=None, description="Accepted; nothing depends on it")
    store: bool | None = Field(default=None, description="Accepted; chat completions are not stored")
    prompt_cache_key: str | None = Field(default=None, description="Accepted; nothing depends on it")
    prompt_cache_retention: Literal["in_memory"] | None = Field(default=None, description="Accepted; it is always so")
    safety_identifier: str | None = Field(default=None, description="Accepted; nothing depends on it")

    unsupported: ClassVar[Mapping[str, str]] = {
        "audio": "The model reads and writes text only.",
        "best_of": "Use n.",
        "chat_template": "Prompts are rendered in the harmony format only.",
        "chat_template_kwargs": "Use reasoning_effort and tools.",
        "function_call": "Use tool_choice.",
        "functions": "Use tools.",
        "moderation": "",
        "prediction": "",
        "prompt_cache_options": "Computed beginnings are found again by themselves.",
        "prompt_logprobs": "",
        "use_beam_search": "",
        "web_search_options": "",
    }


class CallFields(TypedDict):
    """Name and arguments of a call in an answer."""

    name: NotRequired[str]
    arguments: str


class CallAnswer(TypedDict):
    """A call in an answer, or more of it in a stream, where `index` says of which."""

    index: NotRequired[int]
    id: NotRequired[str]
    type: NotRequired[Literal["function"]]
    function: CallFields


class MessageAnswer(TypedDict):
    """The assistant's message, or more of it in a stream."""

    role: NotRequired[Literal["assistant"]]
    content: NotRequired[str | None]
    reasoning: NotRequired[str]
    tool_calls: NotRequired[list[CallAnswer]]


class TopLogprobAnswer(TypedDict):
    """A token that was possible."""

    token: str
    logprob: float
    bytes: list[int]


class LogprobAnswer(TopLogprobAnswer):
    """A token that was chosen, and the best ones beside it."""

    top_logprobs: list[TopLogprobAnswer]


class LogprobsAnswer(TypedDict):
    """Log probabilities of a choice's visible tokens."""

    content: list[LogprobAnswer]


class ChatChoiceAnswer(TypedDict):
    """One choice."""

    index: int
    message: MessageAnswer
    logprobs: LogprobsAnswer | None
    finish_reason: str


class ChunkChoiceAnswer(TypedDict):
    """More of one choice."""

    index: int
    delta: MessageAnswer
    logprobs: LogprobsAnswer | None
    finish_reason: str | None


class PromptDetails(TypedDict):
    """Of the prompt's tokens."""

    cached_tokens: int


class CompletionDetails(TypedDict):
    """Of the completion's tokens."""

    reasoning_tokens: int


class UsageAnswer(TypedDict):
    """Tokens of a request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails


class ChatAnswer(TypedDict):
    """A chat completion."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    seed: int
    choices: list[ChatChoiceAnswer]
    usage: UsageAnswer


class ChatChunk(TypedDict):
    """An event of a stream."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    system_fingerprint: str
    seed: int
    choices: list[ChunkChoiceAnswer]
    usage: NotRequired[UsageAnswer | None]
