"""Choosing among the best tokens: top_k, top_p and min_p over candidates in one order.

Candidates stand by score descending, equal scores by id ascending (N4); a filter keeps a front part of that order.
Sorting 201,088 scores a row is slow, so only those above a threshold are taken and sorted. How low the threshold lies
changes how long it takes and nothing else: either the kept part ends within what was taken, or more is taken.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model.kernels.exact_math import exact_exp
from model.sampling_params import SamplingParams
from model.vocabulary_sums import Scores, running_sums

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

_FIRST_SHARE = 1e-4
"""Tokens below this share of the mass are left out at first: at most 10,000 tokens can lie above it."""
_MAX_TOGETHER = 16_384
"""Candidates that a row may have to be sorted in one padded array with others; wider rows are sorted alone."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """The best tokens of n rows, in order."""

    ids: Ints
    """[n, M]."""
    scores: Floats
    """[n, M], -inf past a row's count."""
    counts: Ints
    """[n] how many of the M are candidates."""


def candidates_above(scores: Tensor, thresholds: Floats) -> Candidates:
    """Return the tokens of scores [n, V] f32 at or above each row's threshold [n], in order."""
    return _ordered(scores, is_at_least(scores, thresholds))


def is_at_least(scores: Tensor, thresholds: Floats) -> npt.NDArray[np.bool_]:
    """Return which of scores [n, V] are at or above their row's threshold [n], on the host."""
    return (scores >= torch.from_numpy(thresholds).to(scores.device)[:, None]).cpu().numpy()


def nth_best(scores: Tensor, counts: Sequence[int]) -> Floats:
    """Return the score [n] at place counts[i] (1 is the best) in each row of scores [n, V]."""
    best = torch.topk(scores, max(counts), dim=1).values
    places = torch.tensor(counts, device=scores.device)[:, None] - 1
    return best.gather(1, places)[:, 0].cpu().numpy()


@dataclass(frozen=True, slots=True)
class _Filters:
    """What n rows keep of their order."""

    top_k: Ints
    """[n], the vocabulary's size where all may stay."""
    top_p: Doubles
    """[n]."""
    log_min_p: Floats
    """[n] lowest score that stays, the best being 0; -inf where all may stay."""
    totals: Doubles
    """[n] mass of the whole row; NaN where only the first top_k count."""

    def take(self, rows: Ints) -> "_Filters":
        return _Filters(self.top_k[rows], self.top_p[rows], self.log_min_p[rows], self.totals[rows])


def draw_filtered(all_scores: Scores, params: Sequence[SamplingParams], uniforms: Doubles) -> Ints:
    """Return one token id a row [n], drawn with the scores' weights from what the row's filters keep.

    top_k keeps the first k; top_p of those the fewest whose mass reaches its share; min_p drops those less likely
    than its share of the best.
    """
    scores = all_scores.whole()
    filters = _filters(scores, params)
    ids = np.zeros(len(params), dtype=np.int64)
    is_open = np.ones(len(params), dtype=np.bool_)
    for thresholds in _thresholds(scores, filters):
        rows = np.flatnonzero(is_open)
        is_taken = is_at_least(take_rows(scores, rows), thresholds[rows])
        for part in _groups(is_taken):
            members = rows[part]
            candidates = _ordered(take_rows(scores, members), is_taken[part])
            drawn, is_settled = _draw(candidates, filters.take(members), thresholds[members], uniforms[members])
            ids[members[is_settled]] = drawn[is_settled]
            is_open[members[is_settled]] = False
        if not is_open.any():
            break
    return ids


def take_rows(scores: Tensor, rows: Ints) -> Tensor:
    """Return `rows` (ascending indices) of scores [n, V]; scores itself, not a copy, if they are all of them."""
    return scores if rows.size == scores.shape[0] else scores[torch.from_numpy(rows).to(scores.device)]


def _filters(scores: Tensor, params: Sequence[SamplingParams]) -> _Filters:
    vocab_size = scores.shape[1]
    top_k = np.array([min(row.top_k or vocab_size, vocab_size) for row in params])
    top_p = np.array([row.top_p for row in params])
    log_min_p = np.array([math.log(row.min_p) if row.min_p > 0.0 else -math.inf for row in params], dtype=np.float32)
    totals = np.full(len(params), np.nan)
    whole = np.flatnonzero((top_p < 1.0) & (top_k == vocab_size))
    if whole.size:
        totals[whole] = running_sums(Scores(take_rows(scores, whole), np.zeros(whole.size, dtype=np.float32)))[:, -1]
    return _Filters(top_k, top_p, log_min_p, totals)


def _thresholds(scores: Tensor, filters: _Filters) -> Iterator[Floats]:
    """Yield thresholds [n], each lower than the last where top_p may need it; the final one takes every token."""
    vocab_size = scores.shape[1]
    is_whole = ~np.isnan(filters.totals)
    first = filters.log_min_p.copy()
    is_limited = filters.top_k < vocab_size
    limited = np.flatnonzero(is_limited)
    if limited.size:
        worst = nth_best(take_rows(scores, limited), filters.top_k[limited].tolist())
        first[limited] = np.maximum(worst, np.finfo(np.float32).min)  # what is impossible is no candidate
    mass = np.where(is_whole, filters.totals, 1.0)
    few = np.minimum(np.log(_FIRST_SHARE * mass), 0.0)  # the best token, which scores 0, is always among them
    yield np.where(is_whole, np.maximum(first, few), first).astype(np.float32)
    # What lies below an even share of the mass to be left out cannot, all together, be more than that mass.
    rest = np.maximum((1.0 - filters.top_p) / vocab_size, 1e-30)
    yield np.where(is_whole, np.maximum(filters.log_min_p, np.log(rest * mass)), first).astype(np.float32)
    yield np.where(is_whole, filters.log_min_p, first).astype(np.float32)


def _groups(is_taken: npt.NDArray[np.bool_]) -> Iterator[Ints]:
    """Yield the rows of is_taken [n, V]: those with few candidates together, each of the others alone."""
    is_wide = np.count_nonzero(is_taken, axis=1) > _MAX_TOGETHER
    narrow = np.flatnonzero(~is_wide)
    if narrow.size:
        yield narrow
    for row in np.flatnonzero(is_wide):
        yield np.array([row])


def _ordered(scores: Tensor, is_taken: npt.NDArray[np.bool_]) -> Candidates:
    """Return the taken tokens of scores [n, V] in order."""
    places = np.flatnonzero(is_taken)
    if scores.shape[0] == 1:
        return _ordered_row(scores, places)
    rows, ids = np.divmod(places, scores.shape[1])
    counts = np.bincount(rows, minlength=scores.shape[0])
    columns = np.arange(places.size) - np.repeat(np.cumsum(counts) - counts, counts)
    shape = (scores.shape[0], int(counts.max(initial=0)))
    padded_ids = np.zeros(shape, dtype=np.int64)
    padded_scores = np.full(shape, -np.inf, dtype=np.float32)
    padded_ids[rows, columns] = ids
    padded_scores[rows, columns] = scores.reshape(-1)[torch.from_numpy(places).to(scores.device)].cpu().numpy()
    # A stable sort keeps the ids' ascending order among equal scores.
    order = np.argsort(-padded_scores, axis=1, kind="stable")
    return Candidates(np.take_along_axis(padded_ids, order, 1), np.take_along_axis(padded_scores, order, 1), counts)


def _ordered_row(scores: Tensor, ids: Ints) -> Candidates:
    """Return tokens `ids` (ascending) of a single row, scores [1, V], in order: no padding, for very many."""
    taken = scores[0].cpu().numpy()[ids]
    order = np.argsort(-taken, kind="stable")
    return Candidates(ids[order][None], taken[order][None], np.array([ids.size]))


def _draw(
    candidates: Candidates, filters: _Filters, thresholds: Floats, uniforms: Doubles
) -> tuple[Ints, npt.NDArray[np.bool_]]:
    """Return the drawn ids [n], and whether each row's kept part ends within its candidates."""
    rows = np.arange(uniforms.size)
    running = np.cumsum(exact_exp(torch.from_numpy(candidates.scores)).numpy().astype(np.float64), axis=1)
    num_best = np.minimum(filters.top_k, candidates.counts)
    is_whole = ~np.isnan(filters.totals)
    totals = np.where(is_whole, filters.totals, running[rows, num_best - 1])
    is_enough = running >= (filters.top_p * totals)[:, None]
    is_cut = is_enough.any(axis=1) & (filters.top_p < 1.0)
    num_top_p = np.where(is_cut, np.argmax(is_enough, axis=1) + 1, candidates.counts)
    num_min_p = (candidates.scores >= filters.log_min_p[:, None]).sum(axis=1)
    num_kept = np.minimum(np.minimum(num_best, num_top_p), num_min_p)
    targets = uniforms * running[rows, num_kept - 1]
    places = (running <= targets[:, None]).sum(axis=1)
    is_settled = ~is_whole | is_cut | (thresholds <= filters.log_min_p)
    return candidates.ids[rows, places], is_settled
