"""Keys and values in 8 bits: what is lost and where, row by row, and attention over them bit for bit."""

import pytest
import torch

from model.kernels.attention import paged_attention, paged_attention_torch
from model.kernels.int8_rows import LARGEST, Int8Rows, quantize_rows
from model.kernels.kv_store import kv_store
from tests.model.kernels.test_attention import CASES, Backend, Case, Paged, random
from tests.support.row_independence import find_dependence, same_bits

both_backends = pytest.mark.parametrize("backend", [paged_attention, paged_attention_torch])


def test_a_head_worked_out_by_hand() -> None:
    """The largest is 254, so a step is 2: -3 lies between -2 and -1 steps and goes to the even one."""
    rows = quantize_rows(torch.tensor([[[254.0, -3.0, 0.9, -254.0]], [[0.0, 0.0, 0.0, 0.0]]]))
    assert rows.scales.tolist() == [[2.0], [0.0]]
    assert rows.stored.tolist() == [[[127, -2, 0, -127]], [[0, 0, 0, 0]]]
    assert rows.dequantize().tolist() == [[[254.0, -4.0, 0.0, -254.0]], [[0.0, 0.0, 0.0, 0.0]]]


def test_no_value_is_off_by_more_than_half_a_step() -> None:
    rows = random(400, 4, 64, seed=1) * torch.logspace(-30, 30, 400)[:, None, None]
    error = (quantize_rows(rows).dequantize().double() - rows.double()).abs()
    bound = rows.double().abs().amax(dim=-1, keepdim=True) / (2 * LARGEST)
    assert (error <= bound * (1 + 1e-6)).all()
    assert (error > bound * 0.9).any()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_stays_so(bad: float) -> None:
    rows = torch.tensor([[[1.0, bad]], [[1.0, 2.0]]])
    assert quantize_rows(rows).dequantize().isfinite().all(dim=-1).tolist() == [[False], [True]]


def test_storing_in_8_bits_is_row_independent() -> None:
    def op(numbered: torch.Tensor) -> torch.Tensor:
        paged = Int8Rows(torch.zeros((4, 16, 2, 8), dtype=torch.int8), torch.zeros(4, 16, 2))
        slots = numbered[:, 0].long()
        kv_store(numbered[:, 1:].view(-1, 2, 8), paged, slots)
        return torch.cat((paged.stored.flatten(0, 1)[slots].float(), paged.scales.flatten(0, 1)[slots][..., None]), -1)

    numbered = torch.cat((torch.arange(64.0).flip(0)[:, None], random(64, 16, seed=3)), dim=1)
    assert find_dependence(op, numbered) is None


def _quantized(case: Case, backend: Backend, garbage: float = torch.nan) -> Paged:
    """Return a case whose keys and values are kept in 8 bits."""
    paged = Paged(case, backend, garbage)
    for name in ("keys", "values"):
        setattr(paged, name, quantize_rows(getattr(paged, name)))
    return paged


@both_backends
@pytest.mark.parametrize("case", CASES)
def test_eight_bits_read_as_the_floats_that_they_stand_for(case: Case, backend: Backend) -> None:
    quantized, floats = _quantized(case, backend), Paged(case, backend)
    for name in ("keys", "values"):
        setattr(floats, name, getattr(quantized, name).dequantize())
    everybody = list(range(len(case.sequences)))
    for left, right in zip(quantized.attend(everybody), floats.attend(everybody), strict=True):
        assert same_bits(left, right)


@both_backends
@pytest.mark.parametrize("case", CASES)
def test_attention_over_8_bits_is_row_independent(case: Case, backend: Backend) -> None:
    paged = _quantized(case, backend)
    together = paged.attend(list(range(len(case.sequences))))
    for index, own in enumerate(together):
        assert same_bits(paged.attend([index])[0], own)


@both_backends
@pytest.mark.parametrize("garbage", [torch.nan, torch.inf, 1e30])
def test_what_was_never_stored_in_8_bits_changes_nothing(garbage: float, backend: Backend) -> None:
    clean, dirty = _quantized(CASES[1], backend, 0.0), _quantized(CASES[1], backend, garbage)
    for left, right in zip(clean.attend([0, 1, 2]), dirty.attend([0, 1, 2]), strict=True):
        assert same_bits(left, right)


def test_native_and_torch_agree_over_8_bits() -> None:
    """Both sum in f32, in other orders: as close to each other as over floats."""
    native, twin = (
        _quantized(CASES[2], backend).attend([0, 1, 2]) for backend in (paged_attention, paged_attention_torch)
    )
    for left, right in zip(native, twin, strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=2e-6)
