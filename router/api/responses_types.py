"""Bodies of `/v1/responses`: what a client may ask for, and the items of its input."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from router.api.body import Part
from router.api.chat_types import EffortName, StreamOptions
from router.api.options import SamplingBody

MAX_METADATA_PAIRS = 16
LOGPROBS = "message.output_text.logprobs"
ENCRYPTED_REASONING = "reasoning.encrypted_content"
Includable = Literal[
    "message.output_text.logprobs",
    "reasoning.encrypted_content",
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "message.input_image.image_url",
    "web_search_call.action.sources",
    "web_search_call.results",
]
"""OpenAI's list. What belongs to tools and media that do not exist here has nothing to include."""


class ItemPart(Part):
    """A piece of an item; only text is understood."""

    type: str
    text: str | None = None
    refusal: str | None = None
    annotations: list[Any] | None = Field(default=None, description="As they came; the model does not see them")
    logprobs: list[Any] | None = Field(default=None, description="As they came; the model does not see them")


class InputItem(Part):
    """An item of any type; which fields it may have depends on the type. Without one, it is a message."""

    type: str | None = None
    id: Annotated[str, Field(max_length=256)] | None = None
    status: Literal["in_progress", "completed", "incomplete"] | None = None
    role: Literal["system", "developer", "user", "assistant"] | None = None
    content: str | list[ItemPart] | None = None
    phase: Literal["commentary", "final_answer"] | None = Field(
        default=None, description="Of an assistant's message: hand it back as it came"
    )
    call_id: Annotated[str, Field(max_length=256)] | None = None
    name: str | None = None
    arguments: str | None = None
    output: str | list[ItemPart] | None = None
    summary: list[ItemPart] | None = None
    encrypted_content: str | None = None


class ResponseTool(Part):
    """A tool. Functions are offered to the model; other types are passed over and named in a header."""

    type: str
    name: str | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = Field(default=None, description="JSON schema of the arguments")
    strict: bool | None = None


class NamedChoice(Part):
    """One tool of a choice."""

    type: str
    name: str | None = None


class ToolChoiceObject(NamedChoice):
    """The tool to call, or with `allowed_tools` the tools that may be called."""

    mode: Literal["auto", "required"] | None = None
    tools: list[NamedChoice] | None = None


class TextFormat(Part):
    """What the answer should look like."""

    type: Literal["text", "json_object", "json_schema"]
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")] | None = None
    description: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None


class TextOptions(Part):
    """Options of the answer's text."""

    format: TextFormat | None = None
    verbosity: Literal["medium"] | None = None


class ReasoningConfig(Part):
    """Effort of reasoning. Its raw text is always given; no summary of it is made."""

    effort: EffortName | None = None
    summary: Literal["auto", "concise", "detailed"] | None = Field(
        default=None, description="Accepted; the raw reasoning is given, and the summary stays empty"
    )
    generate_summary: Literal["auto", "concise", "detailed"] | None = Field(
        default=None, description="The same as `summary`"
    )


class ResponseBody(SamplingBody):
    """The body of a request for a response."""

    input: str | list[InputItem] | None = None
    instructions: str | None = Field(default=None, description="Not carried over to later responses")
    previous_response_id: Annotated[str, Field(max_length=256)] | None = None
    reasoning: ReasoningConfig | None = None
    tools: list[ResponseTool] | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoiceObject | None = None
    parallel_tool_calls: bool | None = Field(default=None, description="False: the turn ends with its first call")
    max_tool_calls: Annotated[int, Field(ge=1, le=2**31)] | None = Field(
        default=None, description="Limits calls of built-in tools; none run here"
    )
    max_output_tokens: Annotated[int, Field(ge=1, le=2**31)] | None = Field(
        default=None, description="Reasoning counts too"
    )
    text: TextOptions | None = None
    include: list[Includable] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=2**31)] | None = None
    truncation: Literal["auto", "disabled"] | None = Field(
        default=None, description="`auto` drops the oldest turns of an input that is too long"
    )
    store: bool | None = Field(default=None, description="True if absent")
    background: bool | None = Field(default=None, description="Answer at once, and run on without the client")
    stream_options: StreamOptions | None = Field(default=None, description="Accepted; nothing is obfuscated")
    metadata: (
        Annotated[
            dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]],
            Field(max_length=MAX_METADATA_PAIRS),
        ]
        | None
    ) = None
    service_tier: Literal["auto", "default"] | None = Field(default=None, description="Accepted; there is one tier")
    prompt_cache_key: str | None = Field(default=None, description="Accepted; nothing depends on it")
    prompt_cache_retention: Literal["in_memory"] | None = Field(default=None, description="Accepted; it is always so")
    safety_identifier: str | None = Field(default=None, description="Accepted; nothing depends on it")

    unsupported: ClassVar[Mapping[str, str]] = {
        "access_programs": "",
        "background_options": "",
        "chat_template": "Prompts are rendered in the harmony format only.",
        "context_management": "Use truncation.",
        "conversation": "Use previous_response_id.",
        "function_call": "Use tool_choice.",
        "functions": "Use tools.",
        "image": "The model reads and writes text only.",
        "logprobs": f"Use include: ['{LOGPROBS}'].",
        "max_completion_tokens": "Use max_output_tokens.",
        "max_tokens": "Use max_output_tokens.",
        "messages": "Use input.",
        "moderation": "",
        "prompt": "Use instructions and input.",
        "prompt_cache_options": "Computed beginnings are found again by themselves.",
        "reasoning_effort": "Use reasoning.effort.",
        "response_format": "Use text.format.",
    }
