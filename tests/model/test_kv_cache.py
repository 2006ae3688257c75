"""The paged cache: sizes per group, and layers that do not share memory."""

import pytest
import torch

from model.kv_cache import KVCache, KVCacheShape
from tests.support.paged import as_tensor
from tests.support.random_model import random_config


def test_each_kind_of_layer_has_its_own_number_of_blocks() -> None:
    config = random_config(num_layers=3)
    cache = KVCache(
        config, KVCacheShape(num_blocks_full=5, num_blocks_sliding=3, block_tokens=16), torch.bfloat16, "cpu"
    )
    assert [cache.layer(layer)[0].shape[0] for layer in range(3)] == [3, 5, 3]
    assert cache.layer(0)[1].shape == (3, 16, config.num_kv_heads, config.head_dim)


def test_bytes_follow_from_blocks() -> None:
    """Two sliding layers and one full one; a block of 16 tokens holds 16 * 2 heads * 32 * 2 bytes, twice (K and V)."""
    config = random_config(num_layers=3)
    full, sliding = KVCache.bytes_per_block(config, 16, torch.bfloat16)
    assert (full, sliding) == (4096, 8192)
    cache = KVCache(config, KVCacheShape(5, 3, 16), torch.bfloat16, "cpu")
    assert cache.num_bytes == 5 * full + 3 * sliding


def test_eight_bits_take_little_more_than_half_of_sixteen() -> None:
    """A head of 64 takes 64 bytes and 4 for its scale, not 128; 20b's 8 heads, 24 layers, K and V: 417,792 a block."""
    config = random_config(num_layers=24, num_heads=64, num_kv_heads=8, head_dim=64)
    wide, narrow = (sum(KVCache.bytes_per_block(config, 16, dtype)) for dtype in (torch.bfloat16, torch.int8))
    assert (wide, narrow) == (2 * 16 * 8 * 128 * 24, 2 * 16 * 8 * 68 * 24)
    cache = KVCache(config, KVCacheShape(3, 3, 16), torch.int8, "cpu")
    assert cache.num_bytes == 3 * narrow


def test_layers_do_not_share_memory() -> None:
    cache = KVCache(random_config(), KVCacheShape(2, 2, 16), torch.float32, "cpu")
    as_tensor(cache.layer(1)[0]).fill_(1.0)
    assert as_tensor(cache.layer(3)[0]).sum() == 0
    assert as_tensor(cache.layer(1)[1]).sum() == 0


def test_a_block_size_that_does_not_divide_the_splits_is_refused() -> None:
    with pytest.raises(ValueError, match="block_tokens is 48"):
        KVCacheShape(2, 2, 48)
