"""Several experts in one call: each row's bits are those of its expert alone, in both roundings, and the twin's."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from model.kernels.mxfp4_experts import mxfp4_experts, mxfp4_experts_torch
from model.kernels.mxfp4_linear import Mxfp4Weight, mxfp4_linear
from model.kernels.mxfp4_linear_int8 import mxfp4_linear_int8
from model.kernels.native_library import native_library
from model.kernels.threads import num_threads, use_threads
from tests.model.kernels.test_mxfp4_linear import random, random_weight
from tests.support.row_independence import find_dependence

pytestmark = pytest.mark.skipif(native_library() is None, reason="packed experts are for the native kernels")

SHAPES = [(32, 8), (64, 24), (96, 200)]
BOUNDS = [[0, 1], [0, 1, 2, 3, 4], [0, 3, 3, 20, 21], [0, 0, 70]]
"""One row, one each, an expert without rows, and more rows than a tile."""


def experts(inputs: int, outputs: int, num: int) -> tuple[list[Mxfp4Weight], list[Tensor]]:
    weights = [Mxfp4Weight.of(random_weight(inputs, outputs, seed)) for seed in range(num)]
    return weights, [random(outputs, seed=100 + seed) for seed in range(num)]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("is_int8", [False, True])
@pytest.mark.parametrize("bounds", BOUNDS)
@pytest.mark.parametrize(("inputs", "outputs"), SHAPES)
def test_every_row_has_the_bits_of_its_expert_alone(
    inputs: int, outputs: int, bounds: list[int], is_int8: bool, threads: int
) -> None:
    weights, biases = experts(inputs, outputs, len(bounds) - 1)
    rows = random(bounds[-1], inputs)
    one = mxfp4_linear_int8 if is_int8 else mxfp4_linear
    parts = zip(pairwise(bounds), weights, biases, strict=True)
    before = num_threads()
    use_threads(threads)
    try:
        together = mxfp4_experts(rows, weights, biases, bounds, is_int8)
        alone = [one(rows[slice(*ends)], weight, bias) for ends, weight, bias in parts]
    finally:
        use_threads(before)
    assert torch.equal(together, torch.cat(alone))
    twin = mxfp4_experts_torch(rows, weights, biases, bounds, is_int8)
    if is_int8:
        assert torch.equal(together, twin)
    else:
        assert torch.allclose(together, twin, rtol=0, atol=2e-4 * float(twin.abs().max()))


@pytest.mark.parametrize("is_int8", [False, True])
def test_mxfp4_experts_is_row_independent(is_int8: bool) -> None:
    weights, biases = experts(96, 200, 2)

    def multiply(rows: Tensor) -> Tensor:
        return mxfp4_experts(rows, weights, biases, [0, 0, len(rows)], is_int8)

    assert find_dependence(multiply, random(40, 96)) is None


def test_a_weight_for_other_rows_is_refused() -> None:
    weights, biases = experts(64, 8, 1)
    with pytest.raises(AssertionError, match="do not fit"):
        mxfp4_experts(random(3, 32), weights, biases, [0, 3], is_int8=False)


def test_a_bias_of_another_type_is_refused() -> None:
    weights, biases = experts(64, 8, 1)
    with pytest.raises(AssertionError, match="biases as f32"):
        mxfp4_experts(random(3, 64), weights, [biases[0].bfloat16()], [0, 3], is_int8=False)
