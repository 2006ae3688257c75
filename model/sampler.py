"""Counter-based sampling (N4): a token depends on its row of logits, its parameters, seed, choice and position only.

In this order: `logit_bias`; repetition, frequency and presence penalties; what is blocked or masked; temperature; then
`top_k`, `top_p`, `min_p` over candidates by (logit descending, id ascending); then one draw. Without filters the draw
walks the vocabulary in id order, with them in the candidates' order. There is no generator: `philox.uniform` turns
(seed, choice, position) into the one number that a draw takes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model import penalties
from model.candidates import draw_filtered, take_rows
from model.logprobs import token_logprobs
from model.philox import uniform
from model.sampling_params import MAX_SEED, SamplingParams, TokenLogprob
from model.token_counts import TokenCounts
from model.token_mask import TokenGuide, allowed_ids, apply_mask
from model.vocabulary_sums import Floats, Ints, Scores, pick

__all__ = ["GREEDY_BELOW", "SampleRow", "SampledToken", "SamplingParams", "TokenLogprob", "sample"]

GREEDY_BELOW = 1e-5
"""A temperature below this takes the best token: dividing by it would leave f32's range."""


@dataclass(frozen=True, slots=True)
class SampleRow:
    """What is known of the sequence whose next token a row of logits gives."""

    params: SamplingParams
    token_ids: Sequence[int]
    """Prompt and output so far."""
    num_prompt: int
    """How many of them are prompt."""
    blocked_ids: tuple[int, ...] = ()
    """Tokens that must not come now, unless the guide allows no other."""
    ahead: tuple[int, ...] = ()
    """Output after `token_ids` that is taken for granted here: the beginning of a draft."""
    counts: TokenCounts | None = None
    """Of `token_ids`, as `penalties.counts_of` makes them, where somebody keeps them up; otherwise they are made."""
    guide: TokenGuide | None = None
    """Allows tokens by what was written so far; asked while the logits may still be computed."""

    @property
    def position(self) -> int:
        """Return the new token's position."""
        return len(self.token_ids) + len(self.ahead)

    def seen(self) -> tuple[Ints, Floats]:
        """Return the tokens that are penalized, and how often each stands in the output."""
        counts = self.counts or penalties.counts_of(self.params, self.token_ids, self.num_prompt)
        return counts.after(self.ahead)


@dataclass(frozen=True, slots=True)
class SampledToken:
    """One row's result."""

    token_id: int | None
    """None where no token can be sampled: a logit is NaN or infinite, or every token is blocked."""
    logprob: TokenLogprob | None = None
    """If the row's parameters ask for it."""


@torch.inference_mode()
def sample(logits: Tensor, rows: Sequence[SampleRow]) -> list[SampledToken]:
    """Return the next token of each row for logits [R, V] f32, which stay as they are."""
    assert logits.shape[0] == len(rows), (logits.shape, len(rows))
    if not rows:
        return []
    adjusted = _adjust(logits, rows)
    best = adjusted.amax(dim=1).cpu().numpy()
    is_sound = np.isfinite(best)
    is_greedy = np.array([row.params.temperature < GREEDY_BELOW for row in rows])
    token_ids = np.zeros(len(rows), dtype=np.int64)
    greedy, random = np.flatnonzero(is_sound & is_greedy), np.flatnonzero(is_sound & ~is_greedy)
    if greedy.size:
        token_ids[greedy] = _first_best(take_rows(adjusted, greedy))
    if random.size:
        token_ids[random] = _draw(take_rows(adjusted, random), best[random], [rows[row] for row in random.tolist()])
    return _results(logits, rows, token_ids, is_sound)


def _adjust(logits: Tensor, rows: Sequence[SampleRow]) -> Tensor:
    """Return logits with biases, penalties and blocks applied; the same tensor if no row has any."""
    touched = [
        (index, row)
        for index, row in enumerate(rows)
        if row.params.logit_bias or row.params.has_penalties or row.blocked_ids or row.guide
    ]
    if not touched:
        return logits
    adjusted = logits.clone()
    penalties.add_bias(adjusted, [(index, row.params) for index, row in touched])
    for index, row in touched:
        if row.params.has_penalties:
            penalties.penalize(adjusted, index, row.params, *row.seen())
        if row.guide is not None:
            _mask(adjusted, index, row, row.guide)
        elif row.blocked_ids:
            penalties.block(adjusted, index, row.blocked_ids)
    return adjusted


def _mask(logits: Tensor, index: int, row: SampleRow, guide: TokenGuide) -> None:
    """Leave what the guide allows, less what is blocked if anything is left then."""
    words = guide.mask(row.ahead)
    apply_mask(logits, index, words)
    if row.blocked_ids and not np.isin(allowed_ids(words), row.blocked_ids).all():
        penalties.block(logits, index, row.blocked_ids)


def _first_best(logits: Tensor) -> Ints:
    """Return the best token of each row, the lowest id among equals."""
    # Both take the first of equal maxima; on a host numpy's is ten times faster.
    return logits.numpy().argmax(axis=1) if logits.device.type == "cpu" else logits.argmax(dim=1).cpu().numpy()


def _draw(logits: Tensor, best: Floats, rows: Sequence[SampleRow]) -> Ints:
    """Return one random token id for each row of logits [n, V], whose largest are best [n]."""
    is_filtered = np.array([_has_filters(row.params, logits.shape[1]) for row in rows])
    free, filtered = np.flatnonzero(~is_filtered), np.flatnonzero(is_filtered)
    uniforms = _uniforms(rows)
    token_ids = np.zeros(len(rows), dtype=np.int64)
    if free.size:
        token_ids[free] = pick(_scores(logits, best, rows, free), uniforms[free])
    if filtered.size:
        params = [rows[row].params for row in filtered.tolist()]
        token_ids[filtered] = draw_filtered(_scores(logits, best, rows, filtered), params, uniforms[filtered])
    return token_ids


def _scores(logits: Tensor, best: Floats, rows: Sequence[SampleRow], members: Ints) -> Scores:
    temperatures = np.array([rows[row].params.temperature for row in members.tolist()], dtype=np.float32)
    # Dividing by exactly 1 changes no bit, so that a row's scores do not depend on the others' temperatures.
    is_plain = bool(np.all(temperatures == 1.0))
    return Scores(take_rows(logits, members), best[members], None if is_plain else temperatures)


def _uniforms(rows: Sequence[SampleRow]) -> npt.NDArray[np.float64]:
    return uniform(
        np.array([row.params.seed & MAX_SEED for row in rows], dtype=np.uint64),
        np.array([row.params.choice for row in rows], dtype=np.uint64),
        np.array([row.position for row in rows], dtype=np.uint64),
    )


def _has_filters(params: SamplingParams, vocab_size: int) -> bool:
    has_top_k = params.top_k is not None and params.top_k < vocab_size
    return has_top_k or params.top_p < 1.0 or params.min_p > 0.0


def _results(
    logits: Tensor, rows: Sequence[SampleRow], token_ids: Ints, is_sound: npt.NDArray[np.bool_]
) -> list[SampledToken]:
    """Join token ids and, for the rows that ask for them, logprobs."""
    asked = [index for index, row in enumerate(rows) if row.params.num_logprobs is not None and is_sound[index]]
    logprobs: dict[int, TokenLogprob] = {}
    if asked:
        num_top = [rows[index].params.num_logprobs or 0 for index in asked]
        places = np.array(asked)
        logprobs = dict(zip(asked, token_logprobs(take_rows(logits, places), token_ids[places], num_top), strict=True))
    return [
        SampledToken(token_id, logprobs.get(index)) if is_sound[index] else SampledToken(None)
        for index, token_id in enumerate(token_ids.tolist())
    ]
