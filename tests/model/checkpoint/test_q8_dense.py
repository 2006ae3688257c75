"""Dense matrices in 8-bit blocks: as their file has them where it does, rounded once where it does not."""

from pathlib import Path

import pytest
import torch
from gguf import GGMLQuantizationType

from model.checkpoint.gguf.block_types import Q8_0
from model.checkpoint.gguf.blocks import decode
from model.checkpoint.gguf.write import write_gguf
from model.checkpoint.open import open_checkpoint
from model.checkpoint.q8_dense import Q8Dense
from model.checkpoint.random_weights import RandomWeights
from model.load import DenseOptions, load_transformer
from model.numerics import Numerics
from model.q8 import dequantize, is_q8, quantize
from tests.model.checkpoint.gguf_package import write_with_package
from tests.support.random_model import random_config

CONFIG = random_config(num_layers=2, num_experts=3, experts_per_token=2, vocab_size=101, eos_token_ids=())
SOURCE = RandomWeights(CONFIG, 7)


@pytest.fixture
def q8_file(tmp_path: Path) -> Path:
    return write_gguf(tmp_path / "model.gguf", SOURCE, "q8_0")


def test_blocks_of_a_file_come_as_they_are_and_as_views(q8_file: Path) -> None:
    """The head and the embedding are single tensors, so nothing is copied; queries, keys and values are joined."""
    checkpoint = open_checkpoint(q8_file)
    weights = Q8Dense.of(checkpoint)
    stored = q8_file.read_bytes()
    for blocks, values in (
        (weights.head().unembedding, SOURCE.head().unembedding),
        (weights.embedding().embedding, SOURCE.embedding().embedding),
        (weights.attention(1).out_weight, SOURCE.attention(1).out_weight),
    ):
        assert torch.equal(blocks, quantize(values))
        assert blocks.contiguous().numpy().tobytes() in stored
        assert blocks.untyped_storage().nbytes() == q8_file.stat().st_size  # the mapped file is its storage
    assert torch.equal(weights.attention(0).qkv_weight, quantize(SOURCE.attention(0).qkv_weight))


def test_what_is_no_matrix_stays_as_it_is(q8_file: Path) -> None:
    narrow, plain = Q8Dense.of(open_checkpoint(q8_file)), open_checkpoint(q8_file)
    ours, theirs = narrow.attention(0), plain.attention(0)
    for name in ("norm", "qkv_bias", "out_bias", "sinks"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name)), name
    assert torch.equal(narrow.gate(0).weight, plain.gate(0).weight)
    assert torch.equal(narrow.head().norm, plain.head().norm)


def test_the_same_file_without_the_option_is_rounded_to_bf16(q8_file: Path) -> None:
    blocks = Q8Dense.of(open_checkpoint(q8_file)).head().unembedding
    values = open_checkpoint(q8_file).head().unembedding
    assert values.dtype == torch.bfloat16
    assert torch.equal(values, decode(blocks.flatten(), Q8_0, tuple(values.shape)))


@pytest.mark.parametrize("kind", [GGMLQuantizationType.BF16, GGMLQuantizationType.F16], ids=lambda kind: kind.name)
def test_other_matrices_are_rounded_as_they_are_read_but_not_the_embedding(
    tmp_path: Path, kind: GGMLQuantizationType
) -> None:
    source = RandomWeights(random_config(num_layers=2, eos_token_ids=(), pad_token_id=None), 7)
    write_with_package(tmp_path / "model.gguf", source, kind)
    plain = open_checkpoint(tmp_path / "model.gguf")
    for weights in (Q8Dense.of(plain), Q8Dense.of(source)):
        assert not is_q8(weights.embedding().embedding)
        assert torch.equal(weights.head().unembedding, quantize(plain.head().unembedding))
        assert torch.equal(weights.attention(1).qkv_weight, quantize(plain.attention(1).qkv_weight))


def test_a_transformer_keeps_blocks_and_looks_tokens_up_in_them(q8_file: Path) -> None:
    """The residual that enters layer 0 is the stored block times its scale, exact in f32."""
    numerics = Numerics.of("precise", dense_weights="q8_0")
    transformer = load_transformer(open_checkpoint(q8_file), numerics, DenseOptions("cpu", torch.bfloat16))
    x = torch.randn(3, CONFIG.hidden_size, generator=torch.Generator().manual_seed(1))
    wide = load_transformer(SOURCE, Numerics.of("precise"), DenseOptions("cpu", torch.bfloat16))
    narrow_logits, wide_logits = transformer.head(x), wide.head(x)
    error = (narrow_logits - wide_logits).norm() / wide_logits.norm()
    assert 1e-4 < error < 1e-2
    assert torch.equal(
        dequantize(quantize(SOURCE.embedding().embedding))[[5, 100]], transformer.embed(torch.tensor([5, 100]))
    )


def test_rounding_is_to_the_nearest_step_of_a_block() -> None:
    """A block whose largest is 127 has a step of 1; halves go away from zero."""
    values = torch.zeros(1, 32)
    values[0, :5] = torch.tensor([127.0, 0.5, -0.5, 1.49, -2.51])
    assert dequantize(quantize(values))[0, :5].tolist() == [127.0, 1.0, -1.0, 1.0, -3.0]


def test_rows_that_fill_no_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match="rows of 40 values cannot be held as Q8_0"):
        quantize(torch.zeros(2, 40))
