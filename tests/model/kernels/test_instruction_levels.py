"""Every build of the native kernels that this processor can run, in one process: all have the same bits."""

import subprocess
from functools import cache

import pytest
import torch
from torch import Tensor

from model.errors import KernelsUnavailable
from model.kernels.native_library import NativeLibrary, build_library, native_library

LEVELS = ("avx2", pytest.param("generic", marks=pytest.mark.slow))
SHAPES = ((32, 8), (96, 24), (160, 72), (288, 136))
"""Inputs and output features; an odd number of groups of eight leaves one for the narrow kernel."""
NUM_ROWS = (1, 2, 3, 4, 5, 7, 16, 19, 33)
needs_compiler = pytest.mark.skipif(native_library() is None, reason="needs a C++ compiler: builds with it")


@cache
def built(level: str) -> NativeLibrary:
    """Return the kernels limited to `level`, built once."""
    try:
        return build_library(level)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"this compiler builds no {level} kernels: {error.stderr[-200:]!r}")


def packed_experts(width: int, features: int) -> Tensor:
    """Return a packed MXFP4 weight [N/8, K/32, 136] u8 of random codes."""
    packed = torch.randint(0, 256, (features // 8, width // 32, 136), dtype=torch.uint8)
    packed[..., 128:] = torch.randint(110, 132, (features // 8, width // 32, 8), dtype=torch.uint8)
    return packed


def multiply(library: NativeLibrary, function: str, rows: Tensor, packed: Tensor, threads: int = 1) -> Tensor:
    """Return the bits [T, N] i32 of a matmul kernel's f32 output."""
    num_rows, width = rows.shape
    features = packed.shape[0] * 8
    out, bias = torch.full((num_rows, features), torch.nan), torch.arange(features) / 8
    if function.startswith("em_mxfp4"):
        places = [torch.tensor(values) for values in ([0, num_rows], [packed.data_ptr()], [bias.data_ptr()])]
        library.call(function, rows, *places, 1, width, features, out, threads=threads)
    else:
        library.call(function, rows, num_rows, width, packed, features, out, threads=threads)
    return out.view(torch.int32)


def weights(width: int, features: int) -> dict[str, Tensor]:
    """Return a packed weight for each matmul kernel."""
    experts, dense = packed_experts(width, features), torch.randn(features // 8, width, 8)
    return {"em_mxfp4": experts, "em_mxfp4_int8": experts, "em_dense_f32": dense, "em_dense_bf16": dense.bfloat16()}


@needs_compiler
@pytest.mark.parametrize("level", LEVELS)
def test_builds_have_the_same_bits(level: str) -> None:
    torch.manual_seed(5)
    best, limited = built("auto"), built(level)
    for width, features in SHAPES:
        for function, packed in weights(width, features).items():
            for num_rows in NUM_ROWS:
                rows = torch.randn(num_rows, width) * torch.logspace(-3, 3, num_rows)[:, None]
                wanted = multiply(limited, function, rows, packed)
                assert torch.equal(multiply(best, function, rows, packed), wanted), (function, width, num_rows)


@needs_compiler
@pytest.mark.parametrize("level", ["auto", *LEVELS])
def test_rows_and_threads_change_no_bits(level: str) -> None:
    torch.manual_seed(6)
    library = built(level)
    for function, packed in weights(160, 72).items():
        rows = torch.randn(39, 160)
        together = multiply(library, function, rows, packed)
        for threads in (2, 3):
            assert torch.equal(multiply(library, function, rows, packed, threads), together), (function, threads)
        alone = torch.cat([multiply(library, function, row[None], packed) for row in rows])
        assert torch.equal(alone, together), function


@needs_compiler
def test_a_limited_build_says_so() -> None:
    assert not built("avx2").version.endswith("avx512")


def test_unknown_instructions_are_refused() -> None:
    with pytest.raises(KernelsUnavailable, match="wanted one of auto, avx2, generic"):
        build_library("avx1024")
