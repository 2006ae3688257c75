"""Storing keys and values by slot."""

from torch import Tensor

from model.kernels.int8_rows import Int8Rows, Paged, quantize_rows


def kv_store_torch(rows: Tensor, paged: Paged, slots: Tensor) -> None:
    """Write rows [T, G, D] into paged [B, block_tokens, G, D] at slots [T] = block * block_tokens + offset.

    The rows are rounded to the cache's dtype here, and attention reads only what was stored.
    """
    if isinstance(paged, Int8Rows):
        quantized = quantize_rows(rows.float())
        paged.stored.flatten(0, 1).index_copy_(0, slots, quantized.stored)
        paged.scales.flatten(0, 1).index_copy_(0, slots, quantized.scales)
    else:
        paged.flatten(0, 1).index_copy_(0, slots, rows.to(paged.dtype))


kv_store = kv_store_torch
