"""The training forward of the tiny model: it is gpt-oss, and packing conversations changes none of them."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import GptOssForCausalLM
from transformers.utils.quantization_config import Mxfp4Config

from model.mxfp4 import dequantize, quantize
from model.tiny.asset import ensure_tiny_checkpoint, read_asset, shipped_bytes
from model.tiny.compact import CompactModel
from model.tiny.evaluate import held_out_batches
from model.tiny.network import Packed, rounded_to_mxfp4

MAX_LOGIT_ERROR = 1e-4
"""Of float32 logits with a spread near 5, after four layers summed in other orders."""


@pytest.fixture(scope="module")
def model() -> CompactModel:
    return CompactModel.of(read_asset(shipped_bytes()))


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> GptOssForCausalLM:
    folder: Path = ensure_tiny_checkpoint(tmp_path_factory.mktemp("cache"))
    loaded = GptOssForCausalLM.from_pretrained(
        folder,
        dtype=torch.float32,
        attn_implementation="eager",
        quantization_config=Mxfp4Config(dequantize=True),
    )
    return loaded.float().eval()


def _alone(rows: Tensor) -> Packed:
    return Packed(rows[None], torch.arange(len(rows))[None], torch.zeros(1, len(rows), dtype=torch.long))


@pytest.mark.parametrize("num_tokens", [1, 127, 128, 129, 400])
def test_forward_agrees_with_transformers(model: CompactModel, reference: GptOssForCausalLM, num_tokens: int) -> None:
    rows = torch.randint(len(model.ids), (num_tokens,), generator=torch.Generator().manual_seed(num_tokens))
    ids = torch.tensor(model.ids)
    ours = model.hidden(_alone(rows))[0] @ model.head[:-1].T
    with torch.no_grad():
        theirs = reference(ids[rows][None]).logits[0][:, ids]
    assert (ours - theirs).abs().max() < MAX_LOGIT_ERROR
    assert torch.equal(ours.argmax(-1), theirs.argmax(-1))


def test_a_packed_branch_is_the_conversation_alone(model: CompactModel) -> None:
    packed = held_out_batches(model, num_rows=1).draw().packed
    together = model.hidden(packed)[0]
    branches = packed.branches[0]
    assert int(branches.max()) > 1, "the row holds several branches"
    for branch in range(1, int(branches.max()) + 1):
        seen = (branches == 0) | (branches == branch)
        alone = model.hidden(_alone(packed.ids[0][seen]))[0]
        assert (together[seen] - alone).abs().max() < MAX_LOGIT_ERROR


@pytest.mark.parametrize("scale", [1e-6, 0.1, 50.0])
def test_weights_are_rounded_in_training_as_the_checkpoint_holds_them(scale: float) -> None:
    """Random weights, blocks of zeros, and every value that lies on or between two codes."""
    random = torch.randn(64, 128, generator=torch.Generator().manual_seed(3)) * scale
    eighths = torch.arange(-56, 56).div(8)
    ties = functional.pad(eighths, (0, 16)).view(4, 32) * torch.tensor([1.0, 0.5, 2.0**-20, 1024.0])[:, None]
    for weight in (random, torch.zeros(2, 64), ties):
        assert torch.equal(rounded_to_mxfp4(weight), dequantize(quantize(weight), torch.float32))
