"""Digests tell rows apart by their bits."""

import torch

from model.digest import logit_digests


def test_equal_rows_have_equal_digests_and_one_bit_makes_another() -> None:
    logits = torch.tensor([[1.0, 2.0], [1.0, 2.0], [1.0, 2.0000002], [1.0, -2.0]])
    digests = logit_digests(logits)
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3
    assert all(len(digest) == 16 for digest in digests)


def test_zero_and_minus_zero_are_different_bits() -> None:
    digests = logit_digests(torch.tensor([[0.0], [-0.0]]))
    assert digests[0] != digests[1]


def test_a_row_has_the_same_digest_alone() -> None:
    logits = torch.randn(3, 50)
    assert logit_digests(logits[1:2]) == logit_digests(logits)[1:2]
