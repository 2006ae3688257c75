"""Bodies and answers of `/v1/completions`."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from router.api.chat_types import StreamOptions, UsageAnswer
from router.api.options import TokenId
from router.api.structured_types import StructuredBody


class CompletionBody(StructuredBody):
    """The body of a completion request."""

    prompt: str | list[str] | list[TokenId] | list[list[TokenId]] = Field(
        description="Text, token ids, or several of either. Text is never read as control tokens; ids may be any"
    )
    max_tokens: Annotated[int, Field(ge=0, le=2**31)] | None = Field(
        default=None, description="16 if absent; 0 only with echo and logprobs"
    )
    logprobs: Annotated[int, Field(ge=0, le=2**31)] | None = None
    echo: bool | None = Field(
        default=None, description="Put the prompt before the text; with logprobs, those of its tokens too"
    )
    suffix: Literal[""] | None = Field(
        default=None, description="Not supported: the model continues, it does not fill in"
    )
    stream_options: StreamOptions | None = None

    unsupported: ClassVar[Mapping[str, str]] = {
        "best_of": "Use n.",
        "prompt_logprobs": "",
        "use_beam_search": "",
    }


class TextLogprobs(TypedDict):
    """Log probabilities of a text's tokens, as parallel lists."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(TypedDict):
    """One choice, or more of it in a stream."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: str | None


class CompletionAnswer(TypedDict):
    """A completion, or an event of its stream."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    seed: int
    choices: list[CompletionChoice]
    usage: NotRequired[UsageAnswer]
