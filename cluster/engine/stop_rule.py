"""StopRule: whether a sequence ends with the token it has just got."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from cluster.engine.sequence import FinishReason, SequenceRequest
from cluster.engine.stop_matcher import StopMatcher
from model.tokenizer import TextDecoder, Tokenizer


@dataclass(frozen=True, slots=True)
class Ending:
    """Why a sequence ends, and the id or string that stopped it."""

    finish_reason: FinishReason
    stop_reason: int | str | None = None


class StopRule:
    """Watches the output of one sequence. Text is decoded only if there are stop strings to look for."""

    def __init__(
        self,
        request: SequenceRequest,
        eos_ids: Iterable[int],
        max_context_tokens: int,
        tokenizer: Callable[[], Tokenizer],
    ) -> None:
        """Watch `request`'s output; `eos_ids` are the model's own stop ids."""
        params = request.params
        self._stop_ids = frozenset(params.stop_token_ids) | frozenset(() if params.ignore_eos else eos_ids)
        self._min_tokens = params.min_tokens
        num_prompt = len(request.prompt_ids) - request.num_released
        self._max_output = min(params.max_tokens, max_context_tokens - num_prompt)
        self._text = _StopText(params.stop, tokenizer()) if params.stop else None

    def num_left(self, num_output: int) -> int:
        """Return how many tokens may come at most after `num_output` output tokens."""
        return self._max_output - num_output

    def blocked_ids(self, num_output: int) -> tuple[int, ...]:
        """Return the ids that must not come after `num_output` output tokens: stop ids, before `min_tokens`."""
        return tuple(sorted(self._stop_ids)) if num_output < self._min_tokens else ()

    def ending(self, token_id: int, num_output: int) -> Ending | None:
        """Take the output token that makes `num_output`; return how the sequence ends with it, or None.

        Called once for each output token, in order. Stop strings are looked for from token `min_tokens` on.
        """
        if num_output >= self._min_tokens:
            matched = self._text.push(token_id) if self._text else None
            if token_id in self._stop_ids:
                return Ending(FinishReason.STOP, token_id)
            if matched is not None:
                return Ending(FinishReason.STOP, matched)
        return Ending(FinishReason.LENGTH) if num_output >= self._max_output else None


class _StopText:
    """Stop strings over the text of tokens. A special token is no text: no stop string runs across it."""

    def __init__(self, stops: tuple[str, ...], tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = TextDecoder(tokenizer)
        self._matcher = StopMatcher(stops)

    def push(self, token_id: int) -> str | None:
        if self._tokenizer.is_special(token_id):
            self._decoder.flush()
            self._matcher.flush()
            return None
        return self._matcher.push(self._decoder.push(token_id))[1]
