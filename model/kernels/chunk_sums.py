"""Weights e**score of a vocabulary, summed chunk by chunk without storing them."""

import torch
from torch import Tensor

from model.kernels.exact_math import exact_exp, tree_sum
from model.kernels.native_library import native_library
from model.kernels.threads import num_threads

_TILE_ELEMENTS = 65_536
"""Scores that the twin computes at a time, so that they stay in cache. It has no influence on bits."""


def chunk_sums(logits: Tensor, best: Tensor, temperatures: Tensor, chunk: int) -> Tensor:
    """Return sums [R, ceil(V / chunk)] f32 of e**((logits - best) / temperatures), each along one tree.

    logits [R, V] f32; best, finite, and temperatures, above 0, [R] f32. What is missing in the last chunk weighs 0.
    """
    library = native_library()
    if library is None or logits.device.type != "cpu":
        return chunk_sums_torch(logits, best, temperatures, chunk)
    num_rows, width = logits.shape
    sums = torch.empty((num_rows, -(-width // chunk)), dtype=torch.float32)
    given = logits.contiguous(), best.contiguous(), temperatures.contiguous()
    library.call("em_chunk_sums", *given, num_rows, width, chunk, sums, threads=num_threads())
    return sums


def chunk_sums_torch(logits: Tensor, best: Tensor, temperatures: Tensor, chunk: int) -> Tensor:
    """Return what `chunk_sums` does, with the same bits, in torch."""
    num_rows, width = logits.shape
    tile = max(1, _TILE_ELEMENTS // (num_rows * chunk)) * chunk
    sums: list[Tensor] = []
    for start in range(0, width, tile):
        scores = (logits[:, start : start + tile] - best[:, None]).div_(temperatures[:, None])
        padded = torch.nn.functional.pad(scores, (0, -scores.shape[1] % chunk), value=-torch.inf)
        sums.append(tree_sum(exact_exp(padded).unflatten(1, (-1, chunk))))
    return torch.cat(sums, dim=1)
