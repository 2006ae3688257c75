"""What the benchmarks say is what was measured: sizes, shares, rows, the picture. No test asserts a time."""

import json
from xml.etree import ElementTree as ET

import pytest
import torch

from cluster.bench.chart import chart
from cluster.bench.engine import EngineBench, EngineWork, decode_work, prefill_work
from cluster.bench.geometry import open_geometry, published_config
from cluster.bench.kernels import kernel_rows
from cluster.bench.roofline import Roofline, measure_roofline
from cluster.bench.rows import BenchRow, Timing, describe_machine, roofline_share
from cluster.config import AttentionSection, EngineSection, ModelSection, NumericsSection
from cluster.standalone import StandaloneSections
from model.checkpoint.random_weights import RandomWeights
from model.kernels.native_library import native_library
from model.load import no_report
from model.sizes import part_bytes
from tests.support.random_model import random_config

ROOF = Roofline(read_bytes_per_s=1e9, read_kernel="by hand", flops_per_s=1e10)
ROW = BenchRow("decode", {"batch": 2, "geometry": "<tiny>"}, Timing((0.004, 0.001, 0.002)), 0.5, "memory")


@pytest.mark.parametrize(("name", "num_bytes"), [("gpt-oss-20b", 13_761_264_768), ("gpt-oss-120b", 65_248_815_744)])
def test_the_published_geometries_have_their_exact_bytes(name: str, num_bytes: int) -> None:
    assert part_bytes(published_config(name)).total == num_bytes


def test_a_geometry_can_be_cut_to_its_first_layers() -> None:
    config = open_geometry("gpt-oss-20b", 3).config
    assert config.layer_types == ("sliding", "full", "sliding")
    with pytest.raises(ValueError, match="layers is 25; gpt-oss-20b has 1 to 24"):
        open_geometry("gpt-oss-20b", 25)
    with pytest.raises(ValueError, match="only a geometry of"):
        open_geometry("tiny", 2)


def test_a_decode_step_reads_its_dense_weights_its_experts_and_its_keys_once() -> None:
    """20b at batch 1 without context: all but the embedding and 28 of 32 experts of each layer."""
    config = published_config("gpt-oss-20b")
    parts = part_bytes(config)
    num_bytes, _ = decode_work(config, batch=1, context_tokens=0)
    assert num_bytes == pytest.approx(parts.total - parts.embedding - parts.experts * 28 / 32)
    deeper, _ = decode_work(config, batch=1, context_tokens=1000)
    assert deeper - num_bytes == 12 * (128 + 1000) * 2 * 8 * 64 * 2


def test_a_step_with_dense_weights_in_8_bits_reads_34_bytes_where_bf16_has_64() -> None:
    """20b at batch 1: 24 layers of 2880 x (5120 + 4096) and a head of 2880 x 201088, by hand."""
    config = published_config("gpt-oss-20b")
    num_values = 24 * 2880 * (5120 + 4096) + 2880 * 201088
    wide, narrow = (decode_work(config, 1, 100, has_q8_dense)[0] for has_q8_dense in (False, True))
    assert wide - narrow == pytest.approx(num_values / 32 * (64 - 34))
    wide, narrow = (prefill_work(config, 100, has_q8_dense)[0] for has_q8_dense in (False, True))
    assert wide - narrow == pytest.approx(num_values / 32 * (64 - 34))


def test_a_long_prompt_wants_every_expert_and_attends_to_half_of_itself() -> None:
    config = published_config("gpt-oss-20b", 2)
    parts = part_bytes(config)
    num_bytes, flops = prefill_work(config, 1000)
    assert num_bytes == pytest.approx(parts.total - parts.embedding, rel=1e-6)
    half, _ = 1000 * (128 + 500), None
    _, shorter = prefill_work(config, 500)
    assert flops - 2 * shorter == pytest.approx(4 * (half - 2 * 500 * (128 + 250)) * 64 * 64)


def test_the_share_is_of_the_limit_that_binds() -> None:
    assert roofline_share(num_bytes=1e9, num_flops=1e9, seconds=2.0, roof=ROOF) == (0.5, "memory")
    assert roofline_share(num_bytes=1e6, num_flops=1e10, seconds=4.0, roof=ROOF) == (0.25, "compute")


def test_a_row_tells_times_machine_and_commit() -> None:
    row = json.loads(ROW.to_json(describe_machine(ROOF)))
    assert (row["bench"], row["batch"], row["median_ms"], row["p99_ms"], row["repeats"]) == ("decode", 2, 2.0, 4.0, 3)
    assert (row["roofline"], row["bound"], row["read_gb_per_s"]) == (0.5, "memory", 1.0)
    assert {"processor", "threads", "kernels", "torch", "commit"} <= set(row)


def test_the_picture_has_a_bar_for_each_row_as_long_as_its_share() -> None:
    full = BenchRow("prefill", {"prompt": 9}, Timing((1.0,)), 1.0, "compute")
    root = ET.fromstring(chart("a & b", [ROW, full]))
    bars = [each for each in root.iter("{http://www.w3.org/2000/svg}rect") if each.get("x")]
    half, whole = (float(bar.get("width", "0")) for bar in bars)
    assert half == pytest.approx(whole / 2, abs=0.1)
    assert any("decode, batch 2" in (each.text or "") for each in root.iter())


@pytest.mark.skipif(native_library() is None, reason="there is no compiler")
@pytest.mark.parametrize("num_bytes", [256, 1 << 20, (3 << 20) + 512])
@pytest.mark.parametrize("ahead", [0, 3072])
def test_the_read_kernel_reads_every_word(num_bytes: int, ahead: int) -> None:
    library = native_library()
    assert library is not None
    words = torch.randint(0, 2**40, (num_bytes // 8,), generator=torch.Generator().manual_seed(1))
    total = torch.zeros(1, dtype=torch.int64)
    library.call("em_read", words, num_bytes, ahead, total, threads=2)
    assert total.item() == words.sum().item()


def test_the_limits_are_measured() -> None:
    roof = measure_roofline(read_bytes=1 << 20)
    assert roof.read_bytes_per_s > 0
    assert roof.flops_per_s > 0


@pytest.mark.skipif(native_library() is None, reason="there is no compiler")
def test_every_kernel_gets_a_row() -> None:
    rows = list(kernel_rows(random_config(num_layers=2, num_experts=4), ROOF))
    assert {str(row.facts["op"]).split()[0].rstrip(",") for row in rows} == {
        "mxfp4_linear", "mxfp4_linear_int8", "linear", "q8_linear", "paged_attention", "rms_norm", "swiglu", "sample",
    }  # fmt: skip
    assert all(row.roofline_share is not None and row.timing.median_s > 0 for row in rows)


def test_the_engine_is_timed_at_each_batch_and_prompt_and_leaves_nothing() -> None:
    config = random_config(num_layers=2, num_experts=4)
    sections = StandaloneSections(
        ModelSection(max_context_tokens=256),
        NumericsSection(),
        EngineSection(kv_cache_bytes=1 << 24),
        AttentionSection(),
    )
    work = EngineWork("random", batches=(1, 3), prompts=(40, 100_000), num_steps=4, num_repeats=2, sections=sections)
    with EngineBench(RandomWeights(config, seed=1), work, no_report) as bench:
        rows = list(bench.rows(ROOF))
        bench.check_integrity()
    assert [(row.name, row.facts.get("batch"), row.facts.get("prompt")) for row in rows] == [
        ("decode", 1, None),
        ("decode", 3, None),
        ("prefill", None, 40),
    ]
    assert [len(row.timing.durations_s) for row in rows] == [4, 4, 2]
