"""TokenMask: which tokens may come next, a bit each, and the blocking of all others.

A mask is an array of uint32 words: token t is bit t % 32 of word t // 32. It comes from a TokenGuide, which follows
what a sequence has written so far. What a mask does to a logit depends on that token's own bit and on nothing else.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Words = npt.NDArray[np.uint32]
WORD_BITS = 32
_FULL_WORD = np.uint32(0xFFFFFFFF)
_FEW_SHARE = 0.1
"""Of all words may hold tokens that are touched one by one; beyond that, going over the whole row is faster."""


class TokenGuide(Protocol):
    """Says what a sequence may write next."""

    def mask(self, ahead: Sequence[int] = ()) -> Words:
        """Return the tokens [ceil(V / 32)] allowed after what was written and then `ahead`, a guess, if any.

        The guide stays where it is. After a guess that is not allowed itself the mask means nothing: whatever is
        sampled there is thrown away with the guess.
        """
        ...


def num_words(vocab_size: int) -> int:
    """Return the words of a mask for a vocabulary."""
    return -(-vocab_size // WORD_BITS)


def mask_of(token_ids: Iterable[int], vocab_size: int) -> Words:
    """Return a mask that allows `token_ids` only; those beyond the vocabulary are left out."""
    bits = np.zeros(num_words(vocab_size) * WORD_BITS, dtype=np.uint8)
    bits[[token_id for token_id in token_ids if token_id < vocab_size]] = 1
    return np.packbits(bits, bitorder="little").view("<u4")


def allow(words: Words, token_ids: Iterable[int]) -> None:
    """Allow `token_ids` too, in place; those beyond the mask are left out."""
    for token_id in token_ids:
        if token_id < words.size * WORD_BITS:
            words[token_id // WORD_BITS] |= np.uint32(1 << (token_id % WORD_BITS))


def allowed_ids(words: Words) -> npt.NDArray[np.int64]:
    """Return the ids that a mask allows, ascending."""
    return np.flatnonzero(_bits(words))


def apply_mask(logits: Tensor, row: int, words: Words) -> None:
    """Make every token of a row of logits [R, V] impossible that the mask does not allow, in place.

    Tokens beyond the mask are impossible too. Where all tokens but few are allowed, as in reasoning, or few alone, as
    in a header, only those are touched.
    """
    vocab_size = logits.shape[1]
    blocked = np.full(num_words(vocab_size), _FULL_WORD)
    np.invert(words[: blocked.size], out=blocked[: words.size])
    max_words = int(_FEW_SHARE * blocked.size)
    not_free, not_shut = np.flatnonzero(blocked), np.flatnonzero(blocked != _FULL_WORD)
    if not_free.size <= max_words:
        ids = torch.from_numpy(_ids_in(blocked, not_free, vocab_size)).to(logits.device)
        logits[row, ids] = float("-inf")
    elif not_shut.size <= max_words:
        ids = torch.from_numpy(_ids_in(~blocked, not_shut, vocab_size)).to(logits.device)
        kept = logits[row, ids]
        logits[row] = float("-inf")
        logits[row, ids] = kept
    else:
        bits = torch.from_numpy(_bits(blocked)[:vocab_size].view(np.bool_))
        logits[row].masked_fill_(bits.to(logits.device), float("-inf"))


def _ids_in(words: Words, places: npt.NDArray[np.int64], vocab_size: int) -> npt.NDArray[np.int64]:
    """Return the ids below `vocab_size` whose bit is set in the words at `places`."""
    which = np.flatnonzero(_bits(words[places]))
    ids = places[which // WORD_BITS] * WORD_BITS + which % WORD_BITS
    return ids[ids < vocab_size]


def _bits(words: Words) -> npt.NDArray[np.uint8]:
    """Return one 0 or 1 a token [32 * words]."""
    return np.unpackbits(words.astype("<u4", copy=False).view(np.uint8), bitorder="little")
