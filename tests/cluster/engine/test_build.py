"""How the bytes of the KV cache are shared out, by hand: blocks of 16 tokens, a window of 128."""

import logging

import pytest

from cluster.config import EngineSection
from cluster.engine.blocks import BlockCount, BlockGeometry
from cluster.engine.build import build_engine, count_blocks
from cluster.engine.scheduler import StepLimits
from model.checkpoint.random_weights import RandomWeights
from tests.support.random_model import load_all, random_config

GEOMETRY = BlockGeometry(block_tokens=16, window=128)
STEP = StepLimits(max_step_tokens=512, max_running_sequences=4)
EACH = BlockCount(1000, 1000)


def test_plenty_of_bytes_give_every_sequence_all_it_can_use() -> None:
    """Full: 4 sequences of 1,024 tokens, 64 blocks each. Sliding: 4 times 9 + 1, and 32 for the rows of a step."""
    assert count_blocks(10**9, EACH, GEOMETRY, STEP, 1024) == BlockCount(1 + 4 * 64, 1 + 4 * 10 + 32)


def test_sliding_layers_get_half_at_most() -> None:
    assert count_blocks(100_000, EACH, GEOMETRY, STEP, 1024) == BlockCount(50, 50)
    assert count_blocks(100_000, BlockCount(2000, 500), GEOMETRY, STEP, 1024) == BlockCount(31, 73)


def test_sliding_layers_get_what_one_sequence_needs() -> None:
    """A window of 128 lies in 9 blocks; with block 0 that is 10."""
    assert count_blocks(12_000, EACH, GEOMETRY, STEP, 1024) == BlockCount(2, 10)
    with pytest.raises(ValueError, match="kv_cache_bytes is 11999; the smallest cache of this model takes 12000 bytes"):
        count_blocks(11_999, EACH, GEOMETRY, STEP, 1024)


def test_a_group_without_layers_takes_no_bytes() -> None:
    assert count_blocks(20_000, BlockCount(0, 1000), GEOMETRY, STEP, 1024) == BlockCount(257, 10)
    assert count_blocks(20_000, BlockCount(1000, 0), GEOMETRY, STEP, 1024) == BlockCount(20, 73)


def test_a_small_cache_shortens_the_context_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    """Two of four layers are full: 2 * 2 * 16 * 2 * 32 * 4 bytes are 16,384 a block. 10 are sliding, 10 full."""
    transformer, experts = load_all(RandomWeights(random_config(), seed=1))
    section = EngineSection(kv_cache_bytes=20 * 16_384)
    with caplog.at_level(logging.INFO):
        quiet = build_engine(transformer, experts, section)
        loud = build_engine(transformer, experts, section, max_context_tokens=400)
    assert quiet.limits.num_blocks == BlockCount(10, 10)
    assert quiet.limits.max_context_tokens == loud.limits.max_context_tokens == 9 * 16
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", "the KV cache leaves a sequence 144 tokens, not 8192"),
        ("WARNING", "the KV cache leaves a sequence 144 tokens, not 400"),
    ]


def test_without_a_number_of_bytes_a_fraction_of_what_is_free_is_taken() -> None:
    transformer, experts = load_all(RandomWeights(random_config(max_positions=256), seed=1))
    engine = build_engine(transformer, experts, EngineSection(kv_cache_fraction=0.01, max_running_sequences=2))
    assert engine.limits.num_blocks == BlockCount(1 + 2 * 16, 1 + 2 * 10 + 32)
    assert engine.limits.max_context_tokens == 256
