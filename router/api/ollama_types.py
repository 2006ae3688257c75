"""Bodies and answers of Ollama's API, below `/api`."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from router.api.body import Body, Part
from router.api.chat_types import LogprobAnswer, Tool

ModelName = Annotated[str, Field(min_length=1, max_length=256)]


class OllamaOptions(Part):
    """Options of sampling. Those of loading (`num_gpu`, `num_thread` and the like) are passed over and named."""

    temperature: float | None = Field(default=None, description="1 if absent; 0 is greedy")
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = Field(default=None, description="-1: drawn")
    num_predict: Annotated[int, Field(ge=-2, le=2**31)] | None = Field(
        default=None, description="Most tokens; 0 and below: as many as the context holds"
    )
    stop: str | list[str] | None = None
    repeat_penalty: float | None = Field(default=None, description="Of all tokens so far, not of the last few")
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    num_ctx: Annotated[int, Field(ge=0, le=2**31)] | None = Field(
        default=None, description="At most the served context, which stays as it is"
    )
    repeat_last_n: int | None = Field(default=None, description="With a penalty -1 only: all tokens count")
    penalize_newline: bool | None = Field(default=None, description="With a penalty true only")
    mirostat: Literal[0] | None = Field(default=None, description="Not supported")
    typical_p: Annotated[float, Field(ge=1, le=1)] | None = Field(default=None, description="Not supported")
    tfs_z: Annotated[float, Field(ge=1, le=1)] | None = Field(default=None, description="Not supported")


class OllamaBody(Body):
    """What chat and generate share."""

    model: ModelName = Field(description="What is served; `:latest` behind it is no other model")
    stream: bool | None = Field(default=None, description="True if absent: one JSON object a line")
    format: Literal["", "json"] | dict[str, Any] | None = Field(default=None, description="json, or a JSON schema")
    options: OllamaOptions | None = None
    think: bool | Literal["low", "medium", "high"] | None = Field(
        default=None, description="Effort; false: low, and the thinking is left out"
    )
    logprobs: bool | None = None
    top_logprobs: int | None = None
    keep_alive: float | str | None = Field(default=None, description="Accepted; the model stays loaded")


class OllamaFunction(Part):
    """Name and arguments of a call."""

    name: str
    arguments: dict[str, Any] = Field(default_factory=dict[str, Any])
    index: int | None = None


class OllamaCall(Part):
    """A call that the assistant made."""

    id: str | None = None
    type: str | None = None
    function: OllamaFunction


class OllamaMessage(Part):
    """A message of any role."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    thinking: str | None = Field(default=None, description="Of an assistant: hand it back between tool calls")
    tool_calls: list[OllamaCall] | None = None
    tool_name: str | None = Field(default=None, description="Of a tool: whose result this is")
    name: str | None = Field(default=None, description="Of a tool: the same as `tool_name`; of a user: their name")
    tool_call_id: str | None = Field(default=None, description="Of a tool: the call that it answers")
    images: list[Any] | None = Field(default=None, description="Not supported: the model reads text only")


class OllamaChatBody(OllamaBody):
    """The body of `/api/chat`."""

    messages: list[OllamaMessage] | None = Field(default=None, description="Without any, the model is only loaded")
    tools: list[Tool] | None = None


class OllamaGenerateBody(OllamaBody):
    """The body of `/api/generate`."""

    prompt: str | None = Field(default=None, description="Without one, the model is only loaded")
    system: str | None = None
    raw: bool | None = Field(default=None, description="Continue the prompt as it is; its text is never control tokens")
    images: list[Any] | None = Field(default=None, description="Not supported: the model reads text only")
    suffix: str | None = Field(default=None, description="Not supported: the model continues, it does not fill in")
    template: str | None = Field(default=None, description="Not supported: prompts have the harmony format")
    context: list[int] | None = Field(default=None, description="Not supported: use /api/chat")


class OllamaShowBody(Body):
    """The body of `/api/show`."""

    model: ModelName | None = None
    name: ModelName | None = Field(default=None, description="The same as `model`")
    verbose: bool | None = None

    unsupported: ClassVar[Mapping[str, str]] = {}


class OllamaFunctionAnswer(TypedDict):
    """Name and arguments of a call in an answer."""

    index: int
    name: str
    arguments: dict[str, Any]


class OllamaCallAnswer(TypedDict):
    """A call in an answer."""

    id: str
    function: OllamaFunctionAnswer


class OllamaMessageAnswer(TypedDict):
    """The assistant's message, or more of it in a stream."""

    role: Literal["assistant"]
    content: str
    thinking: NotRequired[str]
    tool_calls: NotRequired[list[OllamaCallAnswer]]


class OllamaAnswer(TypedDict):
    """What every line has, and what only the last one and a whole answer have. Durations are in nanoseconds."""

    model: str
    created_at: str
    done: bool
    logprobs: NotRequired[list[LogprobAnswer]]
    done_reason: NotRequired[str]
    total_duration: NotRequired[int]
    load_duration: NotRequired[int]
    prompt_eval_count: NotRequired[int]
    prompt_eval_duration: NotRequired[int]
    eval_count: NotRequired[int]
    eval_duration: NotRequired[int]


class OllamaChatAnswer(OllamaAnswer):
    """An answer of `/api/chat`, or a line of it."""

    message: OllamaMessageAnswer


class OllamaGenerateAnswer(OllamaAnswer):
    """An answer of `/api/generate`, or a line of it."""

    response: str
    thinking: NotRequired[str]


class OllamaDetails(TypedDict):
    """What a model is made of."""

    format: str
    family: str
    families: list[str]
    parameter_size: NotRequired[str]
    quantization_level: NotRequired[str]


class OllamaModel(TypedDict):
    """The served model in a list."""

    name: str
    model: str
    modified_at: str
    digest: str
    details: OllamaDetails
    context_length: NotRequired[int]
    expires_at: NotRequired[str]


class OllamaModels(TypedDict):
    """All models."""

    models: list[OllamaModel]


class OllamaShowAnswer(TypedDict):
    """What is known of the served model."""

    modelfile: str
    parameters: str
    template: str
    details: OllamaDetails
    model_info: dict[str, Any]
    capabilities: list[str]
    modified_at: str


class OllamaVersion(TypedDict):
    """The release of Ollama whose API this is."""

    version: str
