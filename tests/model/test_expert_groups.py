"""Pairs sorted by expert."""

import torch

from model.expert_groups import group_by_expert


def test_pairs_stand_by_expert_and_keep_their_order() -> None:
    groups = group_by_expert(torch.tensor([3, 0, 3, 5, 0]))
    assert groups.experts == (0, 3, 5)
    assert groups.bounds == (0, 2, 4, 5)
    assert groups.order.tolist() == [1, 4, 0, 2, 3]
    assert list(groups.spans()) == [(0, slice(0, 2)), (3, slice(2, 4)), (5, slice(4, 5))]
