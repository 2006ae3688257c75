"""SamplingParams: what a request decides about its tokens, checked once; TokenLogprob, what it may ask back.

No torch here, so that whoever only carries parameters stays light. `model.sampler` says what they mean.
"""

import math
from dataclasses import dataclass

MAX_SEED = 2**64 - 1
MAX_CHOICE = 2**32 - 1


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Natural logarithms of the model's own probabilities at one position."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...]
    """The most probable tokens, best first, as (id, logprob); as many as were asked for."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How one sequence's tokens are chosen, and where it ends. A wrong value is a ValueError naming field and value."""

    max_tokens: int
    """Output tokens, those of earlier attempts included."""
    seed: int
    """-2**63 .. 2**64 - 1, taken modulo 2**64."""
    choice: int = 0
    """Which of a request's `n` choices this is; each draws its own numbers."""
    temperature: float = 1.0
    """Below `model.sampler.GREEDY_BELOW` the best token is taken."""
    top_p: float = 1.0
    top_k: int | None = None
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    """(token id, bias), each id once."""
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    """Go on past the model's own stop ids; `stop_token_ids` still hold."""
    num_logprobs: int | None = None
    """None: no logprobs; n >= 0: the chosen token's own and the n best."""
    min_tokens: int = 0
    """No stop of any kind before so many output tokens: stop ids cannot be sampled, stop strings do not count."""

    def __post_init__(self) -> None:
        _require(self.max_tokens >= 1, "max_tokens", self.max_tokens, "at least 1")
        _require(-(2**63) <= self.seed <= MAX_SEED, "seed", self.seed, "in -2**63 .. 2**64 - 1")
        _require(0 <= self.choice <= MAX_CHOICE, "choice", self.choice, "in 0 .. 2**32 - 1")
        _require(0 <= self.min_tokens <= self.max_tokens, "min_tokens", self.min_tokens, "in 0 .. max_tokens")
        _check_shape(self)
        _check_penalties(self)
        _check_stops(self)

    @property
    def has_penalties(self) -> bool:
        """Return whether tokens seen before change the logits."""
        return self.presence_penalty != 0.0 or self.frequency_penalty != 0.0 or self.repetition_penalty != 1.0


def _check_shape(params: SamplingParams) -> None:
    """Check what shapes the distribution."""
    _require(math.isfinite(params.temperature), "temperature", params.temperature, "finite")
    _require(params.temperature >= 0.0, "temperature", params.temperature, "at least 0")
    _require(0.0 < params.top_p <= 1.0, "top_p", params.top_p, "above 0 and at most 1")
    _require(params.top_k is None or params.top_k >= 1, "top_k", params.top_k, "at least 1")
    _require(0.0 <= params.min_p <= 1.0, "min_p", params.min_p, "in 0 .. 1")
    _require(params.num_logprobs is None or params.num_logprobs >= 0, "num_logprobs", params.num_logprobs, "at least 0")


def _check_penalties(params: SamplingParams) -> None:
    """Check what moves single logits."""
    _require(math.isfinite(params.presence_penalty), "presence_penalty", params.presence_penalty, "finite")
    _require(math.isfinite(params.frequency_penalty), "frequency_penalty", params.frequency_penalty, "finite")
    repetition = params.repetition_penalty
    _require(math.isfinite(repetition) and repetition > 0.0, "repetition_penalty", repetition, "finite and above 0")
    ids = [token_id for token_id, _ in params.logit_bias]
    _require(len(set(ids)) == len(ids), "logit_bias", params.logit_bias, "one bias for each token id")
    for token_id, bias in params.logit_bias:
        _require(token_id >= 0 and math.isfinite(bias), "logit_bias", (token_id, bias), "a token id and a finite bias")


def _check_stops(params: SamplingParams) -> None:
    for text in params.stop:
        _require(text != "", "stop", params.stop, "strings that are not empty")
    for token_id in params.stop_token_ids:
        _require(token_id >= 0, "stop_token_ids", params.stop_token_ids, "token ids")


def _require(is_met: bool, field: str, value: object, wanted: str) -> None:
    if not is_met:
        raise ValueError(f"{field} is {value!r}; it must be {wanted}")
