"""Looking into a KV cache from a test."""

import torch
from torch import Tensor

from model.kernels.int8_rows import Int8Rows, Paged
from model.kv_cache import KVCache


def as_tensor(paged: Paged) -> Tensor:
    """Return the tensor of keys or values that are not quantised."""
    assert isinstance(paged, Tensor), f"{type(paged).__name__} is no tensor"
    return paged


def spoil(kv_cache: KVCache, num_layers: int) -> None:
    """Fill a cache with NaN: only what was stored may be read."""
    for layer in range(num_layers):
        for paged in kv_cache.layer(layer):
            if isinstance(paged, Int8Rows):
                paged.stored.fill_(77)
                paged.scales.fill_(torch.nan)
            else:
                paged.fill_(torch.nan)
