"""The model on a CUDA device, by the torch twins: rows are independent there too, and logits are transformers'.

Skipped where there is no device; `pytest -m gpu` runs these and nothing else.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from model.checkpoint.layout import FormatName
from model.checkpoint.open import open_checkpoint
from model.checkpoint.random_weights import RandomWeights
from model.checkpoint.write import write_random_checkpoint
from model.expert_shard import ExpertShard
from model.kernels.chunk_sums import chunk_sums
from model.kernels.combine import combine
from model.kernels.linear import LinearWeight, linear
from model.kernels.mxfp4_linear_int8 import mxfp4_linear_int8
from model.kernels.norm import rms_norm
from model.kernels.q8_linear import Q8Weight, q8_linear
from model.kernels.rotary import rotate
from model.kernels.swiglu import swiglu
from model.kernels.top_k import top_k
from model.mxfp4 import quantize
from model.q8 import quantize as quantize_q8
from model.transformer import Transformer
from tests.model.test_parity import assert_parity, load_reference
from tests.support.random_model import load_all, random_config
from tests.support.row_independence import find_dependence, same_bits
from tests.support.steps import Sheet, random_ids, run_in_chunks

DEVICE = "cuda"
MODES = ["float32", "precise", "int8", "bf16", "bf16/int8", "bf16/auto/q8_0"]
"""Behind the slashes: how keys and values are kept, and dense weights."""
WIDTH = 576
NUM_TOKENS = 300

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def _linear(rows: Tensor) -> Tensor:
    return linear(rows, LinearWeight.of(random(200, WIDTH, seed=1)))


def _mxfp4_int8(rows: Tensor) -> Tensor:
    return mxfp4_linear_int8(rows, quantize(random(200, WIDTH, seed=1)), random(200, seed=2))


def _q8(rows: Tensor) -> Tensor:
    return q8_linear(rows, Q8Weight.of(quantize_q8(random(200, WIDTH, seed=1))))


def _norm(rows: Tensor) -> Tensor:
    return rms_norm(rows, random(WIDTH, seed=1), 1e-5)


def _swiglu(rows: Tensor) -> Tensor:
    return swiglu(rows, 7.0, 1.702)


def _rotate(rows: Tensor) -> Tensor:
    return rotate(rows.view(-1, 8, 72), rows[:, None, :36], rows[:, None, 36:72])


def _combine(rows: Tensor) -> Tensor:
    return combine(rows.view(-1, 4, 144), rows[:, :4])


def _gate(rows: Tensor) -> Tensor:
    ids, weights = top_k(rows, 4)
    return torch.cat((ids.float(), weights), dim=1)


def _sums(rows: Tensor) -> Tensor:
    return chunk_sums(rows, rows.amax(dim=1), torch.full((rows.shape[0],), 0.7, device=rows.device), 128)


@pytest.mark.parametrize("op", [_linear, _mxfp4_int8, _q8, _norm, _swiglu, _rotate, _combine, _gate, _sums])
def test_every_twin_is_row_independent(op: Callable[[Tensor], Tensor]) -> None:
    assert find_dependence(op, random(64, WIDTH)) is None


@pytest.mark.parametrize("mode", MODES)
def test_chunks_prefill_and_decode_agree(mode: str) -> None:
    transformer, experts = _model(mode)
    ids = random_ids(150, transformer.config.vocab_size)
    whole = run_in_chunks(transformer, experts, ids, [150])
    assert whole.device.type == DEVICE
    assert same_bits(run_in_chunks(transformer, experts, ids, [1] * 150), whole)
    assert same_bits(run_in_chunks(transformer, experts, ids, [37, 1, 64, 48]), whole)


@pytest.mark.parametrize("mode", MODES)
def test_a_batch_changes_no_row(mode: str) -> None:
    transformer, experts = _model(mode)
    prompts = [random_ids(length, transformer.config.vocab_size, seed=length) for length in (140, 3, 33, 60)]
    alone = [run_in_chunks(transformer, experts, ids, [len(ids)]) for ids in prompts]
    sheet = Sheet(transformer, experts, num_sequences=4, max_tokens=140)
    for who, together in zip((2, 0, 3, 1), sheet.step([(who, prompts[who]) for who in (2, 0, 3, 1)]), strict=True):
        assert same_bits(together, alone[who])


@torch.inference_mode()
@pytest.mark.parametrize("layout", ["packed", "bf16"])
def test_logits_match_transformers(tmp_path: Path, layout: FormatName) -> None:
    """The reference computes on the CPU, in float32 as we do."""
    write_random_checkpoint(tmp_path / "model", random_config(), 1, layout)
    ids = random_ids(NUM_TOKENS, 211)
    transformer, experts = load_all(open_checkpoint(tmp_path / "model"), device=DEVICE)
    ours = run_in_chunks(transformer, experts, ids, [NUM_TOKENS - 3, 1, 1, 1])
    assert_parity(ours.cpu(), load_reference(tmp_path / "model")(torch.tensor([ids])).logits[0])


def _model(mode: str) -> tuple[Transformer, ExpertShard]:
    name, kv_cache_dtype, dense_weights = (mode.split("/") + ["auto", "float32"][mode.count("/") :])[:3]
    return load_all(RandomWeights(random_config(), seed=1), name, kv_cache_dtype, dense_weights, DEVICE)
