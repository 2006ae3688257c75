"""TokenCounts: how often each token has come, kept up as tokens come, for penalties.

Counting afresh for every token would take longer with every token.
"""

from collections.abc import Iterable
from collections.abc import Sequence as Ordered
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


class TokenCounts:
    """The different tokens of a text, and how often each stands in its output."""

    def __init__(self, prompt_ids: Ordered[int], output_ids: Ordered[int]) -> None:
        """Count a text; tokens that stand in `prompt_ids` alone are there with no count."""
        ids, places = np.unique(np.array([*prompt_ids, *output_ids], dtype=np.int64), return_inverse=True)
        self._ids = ids
        self._times = np.bincount(places[len(prompt_ids) :], minlength=ids.size).astype(np.float32)
        self._places = {token_id: place for place, token_id in enumerate(ids.tolist())}

    def add(self, token_id: int) -> None:
        """Take another output token."""
        place = self._places.setdefault(token_id, len(self._places))
        if place >= self._ids.size:
            self._ids, self._times = _doubled(self._ids), _doubled(self._times)
        self._ids[place] = token_id
        self._times[place] += 1

    def after(self, ahead: Iterable[int] = ()) -> tuple[Ints, Floats]:
        """Return the tokens [n] and their counts [n], as they are once the output tokens `ahead` have come too."""
        size = len(self._places)
        ids, times = self._ids[:size], self._times[:size].copy()
        new: dict[int, int] = {}
        for token_id in ahead:
            place = self._places.get(token_id)
            if place is None:
                new[token_id] = new.get(token_id, 0) + 1
            else:
                times[place] += 1
        if new:
            ids = np.concatenate((ids, np.array(list(new), dtype=np.int64)))
            times = np.concatenate((times, np.array(list(new.values()), dtype=np.float32)))
        return ids, times


def _doubled(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.concatenate((array, np.zeros(max(16, array.size), dtype=array.dtype)))
