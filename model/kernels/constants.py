"""Numbers that a native kernel takes by pointer."""

from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=64)
def constants(*values: float) -> Tensor:
    """Return `values` as f32 on the CPU; the same tensor each time, so that a call does not make one."""
    return torch.tensor(values, dtype=torch.float32)
