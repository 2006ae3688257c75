"""The cost of the contract: both sides do the same work, and the formula holds. No test asserts a time."""

import pytest
import torch

from cluster.bench.contract import Contract, ContractWork, OpTimes, StepTimes
from cluster.bench.contract_ops import DTYPES, Op, StepOps, StepSize
from cluster.bench.engine import EngineBench, EngineWork
from cluster.bench.roofline import Roofline
from cluster.config import AttentionSection, EngineSection, ModelSection, NumericsSection
from cluster.standalone import StandaloneSections
from model.checkpoint.random_weights import RandomWeights
from model.kernels.native_library import native_library
from model.load import no_report
from tests.support.random_model import random_config

CONFIG = random_config(num_layers=3, num_experts=4, experts_per_token=2, sliding_window=7)
ROOF = Roofline(read_bytes_per_s=1e9, read_kernel="by hand", flops_per_s=1e10)
TOLERANCES = {"float32": 1e-3, "bfloat16": 3e-2}
"""Relative to the largest value: this engine rounds experts' inputs to 15 bits, bfloat16 has 8."""
NATIVE = pytest.mark.skipif(native_library() is None, reason="needs a C++ compiler: torch is compared with it")


@NATIVE
@pytest.mark.parametrize("size", [StepSize(1, 1, 20), StepSize(5, 1, 3), StepSize(1, 20, 20), StepSize(1, 5, 5)])
@pytest.mark.parametrize("dense_dtype", [torch.float32, torch.bfloat16])
def test_torch_does_the_same_work(size: StepSize, dense_dtype: torch.dtype) -> None:
    """Calls go through copies in turn on both sides, so the first calls meet on the same one."""
    ops = list(StepOps(CONFIG, dense_dtype).of(size))
    assert len(ops) == 8
    for op in ops:
        ours = op.ours()
        for dtype, theirs in op.theirs.items():
            out = theirs().float()
            assert out.shape == ours.shape, op.name
            assert (out - ours).abs().max() <= TOLERANCES[dtype] * ours.abs().max(), (op.name, dtype)


@NATIVE
def test_a_step_calls_every_layer_and_every_wanted_expert() -> None:
    """Three layers, two of them sliding; 64 tokens want all 4 experts, 32 rows each."""
    ops = {op.name: op for op in StepOps(CONFIG, torch.float32).of(StepSize(64, 1, 9))}
    calls = {name: op.calls_per_step for name, op in ops.items()}
    assert calls == {
        "qkv": 3, "out": 3, "gate": 3, "head": 1, "experts, first": 12, "experts, second": 12,
        "attention, full": 1, "attention, sliding": 2,
    }  # fmt: skip
    assert ops["experts, first"].ours().shape == (32, 2 * CONFIG.intermediate_size)
    assert ops["head"].ours().shape == (64, CONFIG.vocab_size)


def test_the_cost_counts_what_torch_does_faster_and_nothing_else() -> None:
    """A step of 10 s: float32 saves 2 calls of 1 s each of `a`, bfloat16 another second of them; `b` is ours."""
    step = StepTimes("decode", 1, [times("a", 2, 3.0, 2.0, 1.5), times("b", 5, 1.0, 4.0, 2.0)], [10.0, 10.0])
    assert step.costs(("float32",)) == pytest.approx([0.25, 0.25])
    assert step.costs(tuple(DTYPES)) == pytest.approx([10 / 7 - 1] * 2)


def test_without_a_faster_op_the_contract_costs_nothing() -> None:
    assert StepTimes("decode", 1, [times("a", 2, 1.0, 2.0, 3.0)], [10.0]).costs(tuple(DTYPES)) == [0.0]


@NATIVE
def test_every_step_gets_a_row_of_its_cost_and_rows_of_its_ops() -> None:
    sections = StandaloneSections(
        ModelSection(max_context_tokens=256),
        NumericsSection(),
        EngineSection(kv_cache_bytes=1 << 24),
        AttentionSection(),
    )
    engine_work = EngineWork("random", num_steps=2, sections=sections)
    work = ContractWork("random", batches=(2,), prompts=(30,), num_steps=2, num_rounds=2)
    with EngineBench(RandomWeights(CONFIG, seed=1), engine_work, no_report) as engine:
        contract = Contract(engine, CONFIG, work, lambda _: None)
        contract.run()
        engine.check_integrity()
    rows = list(contract.rows(ROOF))
    steps = [row for row in rows if row.name != "contract, op"]
    assert [(row.name, row.facts.get("batch"), row.facts.get("prompt")) for row in steps] == [
        ("contract, decode", 2, None),
        ("contract, prefill", None, 30),
    ]
    assert len(rows) == 2 * (1 + 8)
    for row in steps:
        low, middle, high = (float(row.facts[key] or 0) for key in ("cost_low", "cost", "cost_high"))
        assert low <= middle <= high
        assert len(row.timing.durations_s) == 2


def times(name: str, calls: int, ours_s: float, float32_s: float, bfloat16_s: float) -> OpTimes:
    op = Op(name, calls, lambda: torch.zeros(1), {})
    return OpTimes(op, [ours_s] * 2, {"float32": [float32_s] * 2, "bfloat16": [bfloat16_s] * 2})
