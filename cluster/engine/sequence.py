"""What goes into the engine and what comes out: SequenceRequest, TokenEvent. And Sequence, what it is inside.

No torch here: the edge builds requests and reads events too.
"""

from dataclasses import dataclass, field
from enum import StrEnum

from cluster.grammar.constraint import Constraint
from model.sampling_params import SamplingParams, TokenLogprob


@dataclass(frozen=True, slots=True)
class SequenceRequest:
    """One choice of one request, or what is left of it after a failure (a resume)."""

    sequence_id: str
    prompt_ids: tuple[int, ...]
    params: SamplingParams
    num_released: int = 0
    """The last so many of `prompt_ids` are output that earlier attempts have released: they count for penalties,
    `max_tokens` and stop strings."""
    attempt: int = 0
    """Raised with each resume; events carry it, so that those of an older attempt can be dropped."""
    priority: int = 0
    """Lower numbers are admitted first; among equal ones, tenants take turns."""
    cache_salt: str = ""
    """Only sequences of one salt share computed prefixes: who may not learn what others have asked gets another."""
    tenant: str = ""
    """Who it is computed for, as an opaque name: those of one priority share the engine by their weights."""
    weight: float = 1.0
    """Of the tenant: with twice the weight, twice the tokens."""
    constraint: Constraint | None = None
    """What the output may consist of; None: anything. The sequence runs once its grammars are compiled."""


class FinishReason(StrEnum):
    """Why a sequence ended."""

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"
    ERROR = "error"
    """The engine failed at it."""
    UNAVAILABLE = "unavailable"
    """What the engine needs is away, or the engine has stopped: elsewhere, or later, it may go well."""
    REFUSED = "refused"
    """What the sequence was to be held to cannot be compiled or cannot be followed; `error` says where and why."""


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """What one step gave one sequence. The token that stops it is among `token_ids`."""

    sequence_id: str
    attempt: int
    index: int
    """Position of token_ids[0] in the sequence's output, released ids of earlier attempts counted; without
    tokens, the position that the next one would have had."""
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] = ()
    """One a token if the request asked for them."""
    digests: tuple[str, ...] = ()
    """One a token if the engine is told to: of the logits that it was sampled from."""
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None
    """The token id or string that stopped the sequence."""
    error: str | None = None
    num_cached: int = 0
    """Prompt tokens that were not computed because their keys and values were there already."""
    queued_s: float = field(default=0.0, compare=False)
    """Seconds that the sequence waited inside the engine before it first ran; no part of what it was given."""


@dataclass(slots=True, eq=False)
class Sequence:
    """A request on its way: tokens known, and tokens whose keys and values are in the cache."""

    request: SequenceRequest
    arrival: int
    """Order of admission; it stays through preemptions."""
    token_ids: list[int] = field(init=False)
    """Prompt and output."""
    num_computed: int = 0
    num_cached: int = 0
    """Tokens that were found computed when the sequence first ran."""
    num_preemptions: int = 0
    queued_s: float = 0.0
    """Seconds from its arrival to the step that it first ran in."""

    def __post_init__(self) -> None:
        self.token_ids = list(self.request.prompt_ids)

    @property
    def num_known(self) -> int:
        """Return the tokens known: prompt and output."""
        return len(self.token_ids)

    @property
    def num_prompt(self) -> int:
        """Return the length of the original prompt, without any output."""
        return len(self.request.prompt_ids) - self.request.num_released

    @property
    def num_output(self) -> int:
        """Return the output tokens, released ones of earlier attempts included."""
        return len(self.token_ids) - self.num_prompt

    @property
    def rank(self) -> tuple[int, int]:
        """Return what orders sequences: lower runs first, the highest is preempted first."""
        return self.request.priority, self.arrival
