"""Log probabilities of the model itself: of its logits as they are, before bias, penalties, temperature and filters."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model.candidates import candidates_above, nth_best
from model.sampling_params import TokenLogprob
from model.vocabulary_sums import Scores, running_sums


def token_logprobs(logits: Tensor, token_ids: npt.NDArray[np.int64], num_top: Sequence[int]) -> list[TokenLogprob]:
    """Return the logprob of token_ids [n] under logits [n, V] f32, with each row's `num_top` best tokens.

    Equal logits stand in the order of their ids. The sum over the vocabulary is a function of its own row alone.
    """
    scores = Scores(logits, logits.amax(dim=1).cpu().numpy())
    log_totals = [math.log(total) for total in running_sums(scores)[:, -1].tolist()]
    shifted = scores.whole()
    index = torch.from_numpy(token_ids).to(logits.device)[:, None]
    chosen = shifted.gather(1, index)[:, 0].double().tolist()
    tops = _top(shifted, [min(count, logits.shape[1]) for count in num_top])
    return [
        TokenLogprob(token_id, score - log_total, tuple((best, value - log_total) for best, value in top))
        for token_id, score, log_total, top in zip(token_ids.tolist(), chosen, log_totals, tops, strict=True)
    ]


def _top(shifted: Tensor, num_top: Sequence[int]) -> list[list[tuple[int, float]]]:
    """Return each row's best tokens as (id, shifted logit)."""
    if max(num_top) == 0:
        return [[] for _ in num_top]
    candidates = candidates_above(shifted, nth_best(shifted, [max(count, 1) for count in num_top]))
    ids, scores = candidates.ids.tolist(), candidates.scores.tolist()
    return [list(zip(ids[row][:count], scores[row][:count], strict=True)) for row, count in enumerate(num_top)]
