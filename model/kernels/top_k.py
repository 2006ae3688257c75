"""The gate's choice: the best K of a row of scores, and the softmax over them."""

import torch
from torch import Tensor

from model.kernels.exact_math import exact_exp, tree_sum
from model.kernels.native_library import native_library
from model.kernels.threads import num_threads


def top_k(scores: Tensor, num_chosen: int) -> tuple[Tensor, Tensor]:
    """Return ids [T, K] int64 and weights [T, K] f32 of the K = `num_chosen` best of scores [T, E] f32.

    Best first, equal scores by id ascending; the softmax runs over the chosen scores only.
    """
    library = native_library()
    if library is None or scores.device.type != "cpu":
        return top_k_torch(scores, num_chosen)
    num_rows, num_experts = scores.shape
    ids = torch.empty((num_rows, num_chosen), dtype=torch.int64)
    weights = torch.empty((num_rows, num_chosen), dtype=torch.float32)
    sizes = num_rows, num_experts, num_chosen
    library.call("em_gate", scores.contiguous(), *sizes, ids, weights, threads=num_threads())
    return ids, weights


def top_k_torch(scores: Tensor, num_chosen: int) -> tuple[Tensor, Tensor]:
    """Return what `top_k` does, with the same bits, in torch."""
    # A stable sort keeps equal scores in order of id; topk promises nothing about ties.
    ranked, order = torch.sort(scores, dim=1, descending=True, stable=True)
    best = ranked[:, :num_chosen]
    shifted = exact_exp(best - best[:, :1])
    return order[:, :num_chosen], shifted / tree_sum(shifted)[:, None]
