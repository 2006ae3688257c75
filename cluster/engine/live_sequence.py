"""LiveSequence: what the engine keeps of a sequence beside its tokens, and how it takes the tokens of a step."""

from collections.abc import Sequence as Ordered
from dataclasses import dataclass, field, replace

from cluster.engine.scheduler import Chunk
from cluster.engine.sequence import FinishReason, Sequence, TokenEvent
from cluster.engine.speculate import Drafter, Guess, num_confirmed
from cluster.engine.stop_rule import Ending, StopRule
from cluster.grammar.guide import TurnGuide
from model.penalties import counts_of
from model.sampler import SampledToken, SampleRow
from model.token_counts import TokenCounts


@dataclass(slots=True, eq=False)
class LiveSequence:
    """A sequence inside the engine."""

    sequence: Sequence
    stop_rule: StopRule
    since_s: float
    drafter: Drafter | None = None
    guide: TurnGuide | None = None
    """Holds the output to the request's constraint, from when it is compiled."""
    _counts: TokenCounts | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        params = self.sequence.request.params
        if params.has_penalties:
            self._counts = counts_of(params, self.sequence.token_ids, self.sequence.num_prompt)

    @property
    def refusal(self) -> str | None:
        """Return why the constraint cannot be followed from here, or None."""
        return None if self.guide is None else self.guide.failure

    def guess(self, most: int) -> Guess:
        """Return up to `most` tokens that may come after the next one; none that would pass the sequence's end.

        What a guide does not allow is no guess: it could never be kept.
        """
        sequence = self.sequence
        most = min(most, self.stop_rule.num_left(sequence.num_output) - 1)
        if self.drafter is None or most <= 0:
            return Guess()
        guess = self.drafter.guess(sequence.token_ids, most)
        if self.guide is None or not guess.token_ids:
            return guess
        return replace(guess, token_ids=guess.token_ids[: self.guide.num_allowed(guess.token_ids)])

    def sample_rows(self, chunk: Chunk) -> list[SampleRow]:
        """Return one row for each token that the chunk samples: each takes the draft before it for granted."""
        sequence = self.sequence
        return [
            SampleRow(
                sequence.request.params,
                sequence.token_ids,
                sequence.num_prompt,
                self.stop_rule.blocked_ids(sequence.num_output + place),
                ahead=chunk.draft[:place],
                counts=self._counts,
                guide=self.guide,
            )
            for place in range(chunk.num_samples)
        ]

    def take(self, chunk: Chunk, sampled: Ordered[SampledToken]) -> tuple[Ordered[SampledToken], Ending | None]:
        """Add what a chunk's rows sampled, up to where its draft was wrong or the sequence ends.

        Return the tokens that were added, and how the sequence has ended with the last of them, or None. A row that
        gives no token adds none; what comes after a draft it will say again in a step of its own.
        """
        ids = [token.token_id for token in sampled]
        ending: Ending | None = None
        added: list[int] = []
        for token_id in ids[: num_confirmed(chunk.draft, ids)]:
            if token_id is None or ending is not None or not self._is_followed(token_id):
                break
            added.append(token_id)
            self.sequence.token_ids.append(token_id)
            if self._counts is not None:
                self._counts.add(token_id)
            ending = self.stop_rule.ending(token_id, self.sequence.num_output)
            is_cut = ending is None or ending.finish_reason is FinishReason.LENGTH
            if is_cut and self.guide is not None and self.guide.is_over:
                ending = Ending(FinishReason.STOP, token_id)  # whole, even if there was no room for more
        if self.drafter is not None:
            self.drafter.learn(added)
        return sampled[: len(added)], ending

    def _is_followed(self, token_id: int) -> bool:
        """Tell the guide of a token; return whether the constraint can be followed on."""
        if self.guide is not None:
            self.guide.advance(token_id)
        return self.refusal is None

    def event(
        self,
        tokens: Ordered[SampledToken] = (),
        digests: tuple[str, ...] = (),
        ending: Ending | None = None,
        error: str | None = None,
    ) -> TokenEvent:
        """Return what the sequence is told: `tokens`, which have been added, and how it ends, if it does."""
        request = self.sequence.request
        return TokenEvent(
            sequence_id=request.sequence_id,
            attempt=request.attempt,
            index=self.sequence.num_output - len(tokens),
            token_ids=tuple(token.token_id for token in tokens if token.token_id is not None),
            logprobs=tuple(token.logprob for token in tokens if token.logprob is not None),
            digests=digests,
            finish_reason=ending.finish_reason if ending else None,
            stop_reason=ending.stop_reason if ending else None,
            error=error,
            num_cached=self.sequence.num_cached if tokens else 0,
            queued_s=self.sequence.queued_s if tokens else 0.0,
        )
