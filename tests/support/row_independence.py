"""The check of N1: a row's bits do not depend on the rows beside it, on its place among them, or on threads."""

from collections.abc import Callable, Generator
from contextlib import contextmanager

import torch
from torch import Tensor

from model.kernels import threads

BATCH_SIZES = (1, 2, 3, 7, 33, 64)
"""Sizes at which vendor libraries were seen to change their code path."""
THREAD_COUNTS = (1, 2)


@contextmanager
def num_threads(count: int) -> Generator[None]:
    """Compute with `count` threads inside, torch and the native kernels alike."""
    torch_before, native_before = torch.get_num_threads(), threads.num_threads()
    threads.use_threads(count)
    torch.set_num_threads(count)
    try:
        yield
    finally:
        threads.use_threads(native_before)
        torch.set_num_threads(torch_before)


def find_dependence(op: Callable[[Tensor], Tensor], rows: Tensor) -> str | None:
    """Return where `op`, rows [64, ...] to rows, gives a row other bits than it has alone; None if nowhere."""
    with num_threads(1):
        alone = torch.cat([op(rows[row : row + 1]) for row in range(rows.shape[0])])
    for count in THREAD_COUNTS:
        with num_threads(count):
            for size in BATCH_SIZES:
                for first in {0, 1, rows.shape[0] - size}:
                    picked = slice(first, min(first + size, rows.shape[0]))
                    if not same_bits(op(rows[picked]), alone[picked]):
                        return f"{size} rows from {first} on, {count} threads"
    return None


def same_bits(left: Tensor, right: Tensor) -> bool:
    """Say whether two tensors agree bit for bit; unlike equality, NaN agrees with itself and -0 not with 0."""
    if left.shape != right.shape or left.dtype != right.dtype:
        return False
    return left.contiguous().view(torch.uint8).equal(right.contiguous().view(torch.uint8))
