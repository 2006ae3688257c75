"""The matmul, native and twin: right, and row-independent where the vendor's is not."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from model.kernels.linear import LinearWeight, linear, linear_torch
from model.kernels.native_library import native_kernels, native_library
from tests.support.row_independence import find_dependence, same_bits

SHAPES = [(64, 8), (64, 128), (96, 33), (192, 160), (64, 40_000), (2880, 640)]
"""(inputs K, outputs N); 33 outputs are no multiple of the lanes, 40,000 cross the place where the twin splits them."""
BACKENDS: list[Callable[..., Tensor]] = [linear, linear_torch]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def plain(weight: Tensor) -> LinearWeight:
    return LinearWeight(weight, weight.shape[0], is_packed=False)


def test_the_native_kernels_were_built_where_a_compiler_is() -> None:
    kernels = native_kernels()
    assert (kernels.library is None) == (not kernels.reason.startswith("native kernels")), kernels.reason


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("inputs", "outputs"), SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_linear_is_row_independent(
    backend: Callable[..., Tensor], inputs: int, outputs: int, dtype: torch.dtype
) -> None:
    weight = LinearWeight.of(random(outputs, inputs, seed=1).to(dtype))
    assert find_dependence(lambda rows: backend(rows, weight), random(64, inputs)) is None


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("num_rows", [0, 1, 7, 33])
@pytest.mark.parametrize(("inputs", "outputs"), SHAPES[:4])
def test_linear_is_close_to_float64(backend: Callable[..., Tensor], num_rows: int, inputs: int, outputs: int) -> None:
    rows, weight, bias = random(num_rows, inputs), random(outputs, inputs, seed=1), random(outputs, seed=2)
    truth = rows.double() @ weight.double().T + bias.double()
    out = backend(rows, LinearWeight.of(weight), bias)
    assert out.shape == (num_rows, outputs)
    # Any order of K products and sums in f32 errs by at most (K + 1) * 2**-24 of the sum of magnitudes.
    bound = (inputs + 1) * 2**-24 * (rows.double().abs() @ weight.double().abs().T + bias.double().abs())
    assert bool(((out.double() - truth).abs() <= bound).all())


@pytest.mark.parametrize("backend", BACKENDS)
def test_weights_in_bfloat16_and_float32_give_the_same_bits(backend: Callable[..., Tensor]) -> None:
    weight = random(40_000, 64, seed=1).bfloat16()
    rows = random(5, 64)
    assert same_bits(backend(rows, LinearWeight.of(weight)), backend(rows, LinearWeight.of(weight.float())))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packing_loses_nothing(dtype: torch.dtype) -> None:
    weight = random(33, 96).to(dtype)
    assert same_bits(LinearWeight.of(weight).unpacked(), weight)


def test_the_twin_does_not_care_how_the_weight_lies() -> None:
    weight, rows = random(33, 96), random(7, 96, seed=1)
    assert same_bits(linear_torch(rows, LinearWeight.of(weight)), linear_torch(rows, plain(weight)))


def test_the_check_catches_a_matmul_whose_reduction_depends_on_the_batch() -> None:
    """Negative control: a twin that splits K by the number of rows, as split-K kernels do."""

    def split_by_batch(rows: Tensor) -> Tensor:
        parts = [rows[:, part].double() @ weight[:, part].double().T for part in halves(rows)]
        return parts[0].float() + parts[1].float()

    def halves(rows: Tensor) -> list[slice]:
        cut = 16 if rows.shape[0] < 4 else 48
        return [slice(0, cut), slice(cut, 64)]

    weight = random(128, 64, seed=1)
    assert find_dependence(split_by_batch, random(64, 64)) is not None


def test_an_unpacked_weight_goes_to_the_twin() -> None:
    weight, rows = random(128, 64), random(3, 64, seed=1)
    assert same_bits(linear(rows, plain(weight)), linear_torch(rows, plain(weight)))
    assert LinearWeight.of(weight).is_packed == (native_library() is not None)
