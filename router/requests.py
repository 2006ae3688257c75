"""What every API asks of the service, and what it gets back: values, nothing of any wire.

ChatRequest ────┐                              ┌── ChatUpdate …   deltas of one choice
                ├── InferenceService ── Generation
TextRequest ────┘                              └── TextUpdate …   text of one choice
"""

from dataclasses import dataclass, field
from enum import StrEnum

from cluster.grammar.constraint import GrammarSpec
from model.sampling_params import SamplingParams, TokenLogprob
from router.errors import InvalidRequest
from router.harmony.conversation import Conversation
from router.harmony.deltas import Delta


@dataclass(frozen=True, slots=True)
class Options:
    """What a request says about its tokens, before seeds are drawn and limits are known."""

    num_choices: int = 1
    max_tokens: int | None = None
    """None: as many as the context holds."""
    seed: int | None = None
    """None: one is drawn, and returned."""
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = None
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    min_tokens: int = 0
    num_logprobs: int | None = None
    """None: no logprobs; n >= 0: the token's own and the n best."""
    priority: int = 0
    """Lower numbers are begun first."""
    timeout_s: float | None = None
    """The client's own limit, in the request itself."""

    def params(
        self, choice: int, seed: int, max_tokens: int, stop_ids: tuple[int, ...], stop: tuple[str, ...]
    ) -> SamplingParams:
        """Return what the engine needs for one choice; raises InvalidRequest naming field and value.

        `stop_ids` end a turn of the model: whoever ignores its end is given what it says after that.
        """
        ends = () if self.ignore_eos else stop_ids
        try:
            return SamplingParams(
                max_tokens=max_tokens,
                seed=seed,
                choice=choice,
                temperature=self.temperature,
                top_p=self.top_p,
                top_k=self.top_k,
                min_p=self.min_p,
                presence_penalty=self.presence_penalty,
                frequency_penalty=self.frequency_penalty,
                repetition_penalty=self.repetition_penalty,
                logit_bias=self.logit_bias,
                stop=stop,
                stop_token_ids=tuple(dict.fromkeys((*ends, *self.stop_token_ids))),
                ignore_eos=self.ignore_eos,
                num_logprobs=self.num_logprobs,
                min_tokens=min(self.min_tokens, max_tokens),
            )
        except ValueError as error:
            raise InvalidRequest(str(error), str(error).partition(" ")[0]) from error


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A conversation to be answered."""

    conversation: Conversation
    options: Options = Options()
    model: str | None = None
    """None: whatever is served."""
    notes: tuple[str, ...] = ()
    """What was understood otherwise than it was said; the client is told."""
    timeout_s: float | None = None
    """What the client's connection still waits for."""
    has_parallel_calls: bool = True
    """False: the turn ends with its first call."""


@dataclass(frozen=True, slots=True)
class TextRequest:
    """Prompts to be continued. The choices of prompt p are numbered p * num_choices onwards."""

    prompts: tuple[tuple[int, ...], ...]
    options: Options = Options()
    model: str | None = None
    timeout_s: float | None = None
    grammar: GrammarSpec | None = None
    """What each text is held to."""
    is_scored: bool = False
    """Give the logprobs of the prompts' tokens too. They are then computed one by one, as if the model wrote them."""


class Finish(StrEnum):
    """Why a choice ended, in OpenAI's words."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"


@dataclass(frozen=True, slots=True)
class ChatUpdate:
    """More of one choice of a chat."""

    choice: int
    deltas: tuple[Delta, ...]
    logprobs: tuple[TokenLogprob, ...] = ()
    """Of the tokens whose text the content deltas carry."""
    finish: Finish | None = None
    stop: str | None = None
    """The stop string that ended the choice."""


@dataclass(frozen=True, slots=True)
class TextUpdate:
    """More of one choice of a completion."""

    choice: int
    text: str
    token_ids: tuple[int, ...] = ()
    """The tokens whose text this is; control tokens have none and are not among them."""
    logprobs: tuple[TokenLogprob, ...] = ()
    finish: Finish | None = None
    prompt_logprobs: tuple[TokenLogprob, ...] = ()
    """Of the prompt's tokens from the second on, in the first update of a choice whose prompt is scored."""


@dataclass(slots=True)
class Usage:
    """Tokens of a request."""

    num_prompt: int = 0
    """Of each prompt once, however many choices it has."""
    num_cached: int = 0
    num_completion: int = 0
    num_reasoning: int = 0

    @property
    def num_total(self) -> int:
        """Return prompt and completion together."""
        return self.num_prompt + self.num_completion


@dataclass(frozen=True, slots=True)
class Started:
    """What is known of a request before its first token."""

    request_id: str
    created_s: int
    """Seconds since the epoch."""
    model: str
    fingerprint: str
    seed: int
    num_prompt_tokens: int
    notes: tuple[str, ...] = field(default=())
