"""N0-N1 of the numerics contract on whole models: a row's logits have the same bits however it was computed.

Random weights, where nothing but the arithmetic decides; digests are compared by comparing the bits themselves.
"""

import functools
from typing import Any

import pytest
import torch
from torch import Tensor

from model.checkpoint.random_weights import RandomWeights
from model.expert_shard import ExpertShard
from model.kernels.linear import LinearWeight
from model.moe import Experts, Finished, GateOutput, combine
from model.transformer import Transformer
from tests.support.random_model import load_all, random_config
from tests.support.row_independence import THREAD_COUNTS, find_dependence, num_threads, same_bits
from tests.support.steps import LayerByLayer, Sheet, random_ids, run_in_chunks

SHAPES: list[dict[str, Any]] = [
    {},
    {"num_heads": 6, "num_kv_heads": 2, "head_dim": 16, "num_experts": 5, "experts_per_token": 2, "sliding_window": 7},
    {"num_layers": 3, "num_heads": 14, "num_kv_heads": 2, "head_dim": 64, "hidden_size": 96},
]
MODES = ["float32", "precise", "int8", "bf16", "precise/int8", "bf16/int8", "precise/auto/q8_0", "int8/int8/q8_0"]
"""Behind the slashes: how keys and values are kept, and dense weights."""


def model_of(shape: dict[str, Any], mode: str) -> tuple[Transformer, ExpertShard]:
    """Return a random model; everything computed on the CPU."""
    return load_all(RandomWeights(random_config(**shape), seed=1), *mode.split("/"))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", SHAPES)
def test_chunks_prefill_and_decode_agree(shape: dict[str, Any], mode: str) -> None:
    transformer, experts = model_of(shape, mode)
    ids = random_ids(150, transformer.config.vocab_size)
    whole = run_in_chunks(transformer, experts, ids, [150])
    assert same_bits(run_in_chunks(transformer, experts, ids, [1] * 150), whole)
    assert same_bits(run_in_chunks(transformer, experts, ids, [37, 1, 64, 48]), whole)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_batch_changes_no_row(shape: dict[str, Any], mode: str) -> None:
    """Four sequences join and leave a batch at different times and in different orders."""
    transformer, experts = model_of(shape, mode)
    sequences = [random_ids(length, transformer.config.vocab_size, seed=length) for length in (140, 3, 33, 60)]
    alone = [run_in_chunks(transformer, experts, ids, [len(ids)]) for ids in sequences]
    sheet = Sheet(transformer, experts, num_sequences=4, max_tokens=140)
    parts: list[list[Tensor]] = [[] for _ in sequences]
    for order, size in (((2, 0), 5), ((0, 1, 2, 3), 1), ((3, 2, 1, 0), 2), ((0,), 100), ((3, 0, 2), 7), ((2, 3), 9)):
        rows = [(who, sequences[who][sheet.computed[who] :][:size]) for who in order]
        for (who, _), logits in zip(rows, sheet.step([row for row in rows if row[1]]), strict=False):
            parts[who].append(logits)
    for who, collected in enumerate(parts):
        together = torch.cat(collected)
        assert together.shape[0] >= 3
        assert same_bits(together, alone[who][: together.shape[0]])


@pytest.mark.parametrize("mode", MODES)
def test_threads_change_no_row(mode: str) -> None:
    transformer, experts = model_of({}, mode)
    ids = random_ids(200, transformer.config.vocab_size)
    runs: list[Tensor] = []
    for threads in THREAD_COUNTS:
        with num_threads(threads):
            runs.append(run_in_chunks(transformer, experts, ids, [129, 71]))
    assert same_bits(runs[0], runs[1])


def test_dense_weights_in_bfloat16_give_the_same_bits() -> None:
    from model.load import DenseOptions, load_transformer
    from model.numerics import Numerics

    source = RandomWeights(random_config(), seed=1)
    transformer, experts = load_all(source, "precise")
    compact = load_transformer(source, Numerics.of("precise"), DenseOptions("cpu", torch.bfloat16))
    ids = random_ids(20, 211)
    assert same_bits(run_in_chunks(compact, experts, ids, [20]), run_in_chunks(transformer, experts, ids, [20]))


def test_kept_dequantized_weights_change_no_bit() -> None:
    source = RandomWeights(random_config(), seed=1)
    transformer, kept = load_all(source, "precise")
    none = ExpertShard(source.config, transformer.numerics, "cpu", dequantized_bytes=0)
    for layer, expert in kept.resident():
        none.put(layer, expert, source.expert(layer, expert))
    ids = random_ids(20, 211)
    assert same_bits(run_in_chunks(transformer, none, ids, [20]), run_in_chunks(transformer, kept, ids, [20]))


def batch_against_alone(transformer: Transformer, experts: Experts) -> bool:
    """Say whether a sequence has the same logits beside five others as alone."""
    vocab = transformer.config.vocab_size
    alone = run_in_chunks(transformer, experts, random_ids(20, vocab), [20])
    sheet = Sheet(transformer, experts, num_sequences=6, max_tokens=32)
    together = sheet.step([(who, random_ids(20, vocab, seed=who)) for who in (5, 4, 0, 3, 2, 1)])[2]
    return same_bits(alone, together)


def split_when_large(rows: Tensor, weight: LinearWeight, bias: Tensor | None = None) -> Tensor:
    """Multiply as a kernel does that splits its sum over K where the batch is large."""
    matrix = weight.unpacked().float()
    cut = matrix.shape[1] // 2 if rows.shape[0] > 32 else matrix.shape[1]
    out = rows[:, :cut].float() @ matrix[:, :cut].T + rows[:, cut:].float() @ matrix[:, cut:].T
    return out if bias is None else out + bias


def test_negative_control_torchs_own_matmul_depends_on_the_batch() -> None:
    """The check of row independence, given `rows @ weight.T` as it comes: at one size at least it must find something.

    At which one is a matter of the machine's BLAS; float32 differed at every size on the one this was written on.
    """
    found: dict[tuple[torch.dtype, int], str | None] = {}
    for dtype in (torch.float32, torch.bfloat16):
        for inputs in (64, 2880, 4096):
            generator = torch.Generator().manual_seed(inputs)
            rows = torch.randn(64, inputs, generator=generator).to(dtype)
            weight = torch.randn(32, inputs, generator=generator).to(dtype)
            found[dtype, inputs] = find_dependence(functools.partial(torch.matmul, other=weight.T), rows)
    assert any(found.values()), found


def test_negative_control_a_model_on_torchs_own_matmul_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunking changes a model's bits exactly where torch multiplies a row otherwise alone than among others."""
    depends: list[bool] = []

    def plain(rows: Tensor, weight: LinearWeight, bias: Tensor | None = None) -> Tensor:
        wide, matrix = rows.float(), weight.unpacked().float().T
        out = wide @ matrix
        depends.append(any(not same_bits(wide[row : row + 1] @ matrix, out[row : row + 1]) for row in range(len(out))))
        return out if bias is None else out + bias

    transformer, experts = model_of({}, "precise")
    ids = random_ids(20, 211)

    def is_chunking_seen() -> bool:
        whole = run_in_chunks(transformer, experts, ids, [20])
        return not same_bits(run_in_chunks(transformer, experts, ids, [1] * 20), whole)

    assert not is_chunking_seen()
    monkeypatch.setattr("model.dense_matrix.linear", plain)
    assert is_chunking_seen() == any(depends)


def test_negative_control_a_sum_that_is_split_by_the_batch_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    transformer, experts = model_of({}, "precise")
    assert batch_against_alone(transformer, experts)
    monkeypatch.setattr("model.dense_matrix.linear", split_when_large)
    assert not batch_against_alone(transformer, experts)


class SummingWorkers:
    """Wrong on purpose: each of two workers sums its own pairs before anything is combined."""

    def __init__(self, experts: ExpertShard) -> None:
        """Split the experts by even and odd ids."""
        self._experts = experts

    def submit(self, layer: int, hidden: Tensor, gate: GateOutput) -> Finished:
        """Return one partial sum a worker, disguised as pairs that combine with weight one."""
        outputs = self._experts.submit(layer, hidden, gate).wait().float() * gate.weights[..., None]
        is_even = (gate.expert_ids % 2 == 0)[..., None]
        partial = (outputs * is_even).sum(1) + (outputs * ~is_even).sum(1)
        first = partial / gate.weights[:, :1]
        return Finished(torch.cat((first[:, None], torch.zeros_like(outputs[:, 1:])), dim=1))


def in_arrival_order(outputs: Tensor, weights: Tensor) -> Tensor:
    """Wrong on purpose: the pairs are added in another order than the gate's."""
    return combine(outputs.flip(1), weights.flip(1))


def test_negative_control_partial_sums_per_worker_are_caught() -> None:
    transformer, experts = model_of({}, "precise")
    ids = random_ids(20, 211)
    right = run_in_chunks(transformer, experts, ids, [20])
    assert not same_bits(run_in_chunks(transformer, SummingWorkers(experts), ids, [20]), right)


def test_negative_control_combining_in_arrival_order_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    transformer, experts = model_of({}, "precise")
    ids = random_ids(20, 211)
    right = run_in_chunks(transformer, experts, ids, [20])
    assert same_bits(run_in_chunks(transformer, LayerByLayer(experts), ids, [20]), right)
    monkeypatch.setattr("model.transformer.combine", in_arrival_order)
    assert not same_bits(run_in_chunks(transformer, LayerByLayer(experts), ids, [20]), right)
