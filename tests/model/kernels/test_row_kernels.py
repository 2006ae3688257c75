"""What is done to rows alone: the native bodies have their twins' bits at awkward sizes, and every row its own."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from model.kernels.chunk_sums import chunk_sums, chunk_sums_torch
from model.kernels.combine import combine, combine_torch
from model.kernels.norm import rms_norm, rms_norm_torch
from model.kernels.rotary import rotate, rotate_torch
from model.kernels.swiglu import swiglu, swiglu_torch
from model.kernels.threads import num_threads, use_threads
from model.kernels.top_k import top_k, top_k_torch
from tests.support.row_independence import find_dependence, same_bits

ROWS = (0, 1, 2, 3, 7, 33, 64)
ODD = torch.tensor([0.0, -0.0, 1e-38, -1e-42, 3e38, -3e38, torch.inf, -torch.inf, torch.nan])
"""Values at the ends of what f32 holds."""


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def salted(rows: Tensor) -> Tensor:
    """Return `rows` with some values odd, in the last row."""
    if rows.numel():
        rows.view(rows.shape[0], -1)[-1, : ODD.numel()] = ODD[: rows[-1].numel()]
    return rows


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """One or two compute threads, as before once the test has ended."""
    before = num_threads()
    use_threads(request.param)
    yield request.param
    use_threads(before)


def agree(left: Tensor, right: Tensor) -> bool:
    """Say whether two tensors have the same bits; one NaN is as good as another."""
    left, right = (each.clone(memory_format=torch.contiguous_format).flatten() for each in (left, right))
    return same_bits(
        left.nan_to_num(nan=9.75, posinf=torch.inf, neginf=-torch.inf),
        right.nan_to_num(nan=9.75, posinf=torch.inf, neginf=-torch.inf),
    ) and left.isnan().equal(right.isnan())


@pytest.mark.parametrize("num_rows", ROWS)
@pytest.mark.parametrize("width", [1, 2, 7, 64, 90, 2880])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norm_has_its_twins_bits(num_rows: int, width: int, dtype: torch.dtype, threads: int) -> None:
    x, weight = salted(random(num_rows, width)).to(dtype), random(width, seed=1).to(dtype)
    assert agree(rms_norm(x, weight, 1e-5), rms_norm_torch(x, weight, 1e-5))


@pytest.mark.parametrize("num_rows", ROWS)
@pytest.mark.parametrize("width", [1, 3, 8, 90, 2880])
def test_swiglu_has_its_twins_bits(num_rows: int, width: int, threads: int) -> None:
    features = salted(random(num_rows, 2 * width) * 6)
    assert agree(swiglu(features, 7.0, 1.702), swiglu_torch(features, 7.0, 1.702))


@pytest.mark.parametrize("num_rows", ROWS)
@pytest.mark.parametrize(("num_heads", "size"), [(1, 2), (3, 10), (64, 64)])
def test_rotation_has_its_twins_bits_for_heads_among_others_too(
    num_rows: int, num_heads: int, size: int, threads: int
) -> None:
    cos, sin = random(num_rows, 1, size // 2, seed=1), random(num_rows, 1, size // 2, seed=2)
    heads = random(num_rows, num_heads + 2, size)
    for part in (heads, heads[:, 1:-1], heads.transpose(0, 1).contiguous().transpose(0, 1)):
        assert agree(rotate(part, cos, sin), rotate_torch(part, cos, sin))


@pytest.mark.parametrize("num_rows", ROWS)
@pytest.mark.parametrize(("num_chosen", "width"), [(1, 5), (4, 2880), (8, 33)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_combining_has_its_twins_bits(
    num_rows: int, num_chosen: int, width: int, dtype: torch.dtype, threads: int
) -> None:
    outputs, weights = random(num_rows, num_chosen, width).to(dtype), random(num_rows, num_chosen, seed=1)
    assert agree(combine(outputs, weights), combine_torch(outputs, weights))


@pytest.mark.parametrize("num_rows", ROWS)
@pytest.mark.parametrize(("num_experts", "num_chosen"), [(1, 1), (4, 2), (5, 5), (32, 4), (128, 4)])
def test_the_gates_choice_has_its_twins_bits_among_equals_too(
    num_rows: int, num_experts: int, num_chosen: int, threads: int
) -> None:
    """Rounded to halves, many scores are equal; -0 counts as 0, and what is no number stands first, as it sorts."""
    scores = (random(num_rows, num_experts) * 2).round() / 2
    if num_rows:
        scores[-1, ::2] = torch.nan
    for got, expected in zip(top_k(scores, num_chosen), top_k_torch(scores, num_chosen), strict=True):
        assert agree(got, expected)


@pytest.mark.parametrize("num_rows", [1, 2, 3, 7, 33])
@pytest.mark.parametrize("width", [1, 127, 128, 129, 1_001, 33_001])
def test_sums_over_chunks_have_their_twins_bits(num_rows: int, width: int, threads: int) -> None:
    logits = random(num_rows, width) * 9
    logits[:, width // 2 :: 3] = -torch.inf
    logits[:, 0] = 1.0
    temperatures = random(num_rows, seed=1).abs() + 0.1
    temperatures[0] = 1.0
    given = logits, logits.amax(dim=1), temperatures, 128
    assert agree(chunk_sums(*given), chunk_sums_torch(*given))


def _gate(rows: Tensor) -> Tensor:
    ids, weights = top_k(rows, 4)
    return torch.cat((ids.float(), weights), dim=1)


def _sums(rows: Tensor) -> Tensor:
    return chunk_sums(rows, rows.amax(dim=1), torch.full((rows.shape[0],), 0.7), 128)


@pytest.mark.parametrize(
    "op",
    [
        lambda rows: rms_norm(rows, torch.ones(576), 1e-5),
        lambda rows: swiglu(rows, 7.0, 1.702),
        lambda rows: rotate(rows.view(-1, 8, 72), rows[:, None, :36], rows[:, None, 36:72]),
        lambda rows: combine(rows.view(-1, 4, 144), rows[:, :4]),
        _gate,
        _sums,
    ],
)
def test_every_op_is_row_independent(op: Callable[[Tensor], Tensor], threads: int) -> None:
    assert find_dependence(op, random(64, 576)) is None
