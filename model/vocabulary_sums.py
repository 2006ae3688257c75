"""Scores over a vocabulary, and sums of their weights, whose bits depend on their own row alone.

The vocabulary is cut into chunks of fixed size; a chunk's weights are summed in f32 along a fixed tree, the chunks'
sums are added one after the other in f64. Neither knows how many rows there are. Weights are never stored: they are
computed a tile at a time, which stays in cache, and again where they are needed, which gives the same bits.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model.kernels.chunk_sums import chunk_sums
from model.kernels.exact_math import exact_exp

CHUNK = 128
"""Tokens summed along one tree; part of the bits. It divides the published vocabulary of 201,088."""

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Scores:
    """(logit - best) / temperature of R rows: the best token of each row scores 0, its weight e**score is 1."""

    logits: Tensor
    """[R, V] f32."""
    best: Floats
    """[R] each row's largest logit, finite."""
    temperatures: Floats | None = None
    """[R] above 0; None where all are 1."""

    def whole(self) -> Tensor:
        """Return all scores [R, V] f32."""
        return self._of(self.logits)

    def chunk(self, chunks: Ints) -> Tensor:
        """Return the scores [R, CHUNK] of one chunk a row, given by index [R]; -inf beyond the vocabulary."""
        device, vocab_size = self.logits.device, self.logits.shape[1]
        ids = torch.from_numpy(chunks[:, None] * CHUNK + np.arange(CHUNK)).to(device)
        scores = self._of(self.logits.gather(1, ids.clamp(max=vocab_size - 1)))
        return scores.masked_fill_(ids >= vocab_size, -torch.inf)

    def _of(self, logits: Tensor) -> Tensor:
        scores = logits - torch.from_numpy(self.best).to(logits.device)[:, None]
        if self.temperatures is not None:
            scores.div_(torch.from_numpy(self.temperatures).to(logits.device)[:, None])
        return scores


def running_sums(scores: Scores) -> Doubles:
    """Return the weight [R, chunks] up to and including each chunk, on the host; it never falls along a row."""
    device = scores.logits.device
    # Dividing by exactly 1 changes no bit.
    temperatures = np.ones_like(scores.best) if scores.temperatures is None else scores.temperatures
    best, divisors = (torch.from_numpy(each).to(device) for each in (scores.best, temperatures))
    sums = chunk_sums(scores.logits, best, divisors, CHUNK)
    return np.cumsum(sums.cpu().numpy().astype(np.float64), axis=1)


def pick(scores: Scores, uniforms: Doubles) -> Ints:
    """Return one token id a row [R]: the first at which the weight, walked in id order, passes uniform * total.

    `uniforms` [R] lie in [0, 1). A token of weight zero is never picked.
    """
    rows = np.arange(uniforms.size)
    running = running_sums(scores)
    targets = uniforms * running[:, -1]
    chunks = (running <= targets[:, None]).sum(axis=1)
    before = np.where(chunks > 0, running[rows, chunks - 1], 0.0)
    weights = exact_exp(scores.chunk(chunks)).cpu().numpy()
    inner = np.cumsum(weights.astype(np.float64), axis=1)
    offsets = (inner <= (targets - before)[:, None]).sum(axis=1)
    # The tree and the walk round differently: a target just below the chunk's end may lie past the walk's end.
    last = CHUNK - 1 - np.argmax(weights[:, ::-1] > 0.0, axis=1)
    return chunks * CHUNK + np.minimum(offsets, last)
