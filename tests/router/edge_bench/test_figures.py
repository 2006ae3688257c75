"""Rows worked out by hand from turns worked out by hand; the picture draws them to scale."""

from xml.etree import ElementTree as ET

from router.edge_bench.contest import EDGE, ENGINE, SERVER, Result, Sample
from router.edge_bench.figures import percentile_ms, rows_of
from router.edge_bench.load import MIN_REQUESTS, Load
from router.edge_bench.picture import picture


def sample(tokens_per_s: float, first_s: float, gap_s: float, cpu_s: float, text: str = "x") -> Sample:
    return Sample(tokens_per_s, [first_s] * 3, [2 * first_s], [gap_s] * 5, [text], cpu_s, cpu_s / 10)


def result(*, is_same: bool = True) -> Result:
    engine = [sample(100.0, 0.010, 0.002, 1.0), sample(200.0, 0.020, 0.004, 2.0), sample(100.0, 0.010, 0.002, 1.0)]
    edge = [sample(90.0, 0.013, 0.003, 1.5), sample(190.0, 0.021, 0.004, 2.2), sample(98.0, 0.012, 0.002, 1.1)]
    edge[1].texts = ["x" if is_same else "y"]
    edge[0].before_s, edge[0].after_s = [0.001, 0.002, 0.004], [0.0005]
    return Result(Load.of(2, 2, 10), 1000, {ENGINE: engine, EDGE: edge}, 0)


def test_each_round_is_compared_with_itself() -> None:
    """Lost by round: 10 %, 5 %, 2 %; first later by 3, 1, 2 ms; CPU more by 0.5, 0.2, 0.1 s for 1,000 tokens."""
    engine, edge = rows_of(result())
    assert (engine["tokens_per_s"], engine["first_ms"], engine["cpu_us_per_token"]) == (100.0, 10.0, 1000.0)
    assert (edge["throughput_lost"], edge["throughput_lost_low"], edge["throughput_lost_high"]) == (0.05, 0.02, 0.1)
    assert (edge["first_added_ms"], edge["crowd_first_added_ms"], edge["token_added_ms"]) == (2.0, 4.0, 0.0)
    assert (edge["cpu_us_per_token_added"], edge["before_ms"], edge["after_ms"]) == (200.0, 2.0, 0.5)
    assert edge["same_texts"] is True
    assert "throughput_lost" not in engine


def test_another_text_is_told() -> None:
    assert rows_of(result(is_same=False))[1]["same_texts"] is False


def test_of_a_server_elsewhere_no_processor_time_is_told() -> None:
    one = result()
    one.samples[SERVER] = [sample(50.0, 0.05, 0.01, 0.0) for _ in range(3)]
    server = rows_of(one)[2]
    assert (server["program"], server["cpu_us_per_token"], server["cpu_us_per_token_added"]) == ("server", None, None)
    assert server["throughput_lost"] == 0.5


def test_a_percentile_is_by_rank() -> None:
    assert percentile_ms([], 0.5) is None
    assert percentile_ms([0.003, 0.001, 0.002], 0.5) == 2.0
    assert percentile_ms([number / 1000 for number in range(1, 101)], 0.99) == 99.0


def test_a_load_has_requests_enough_and_lengths_that_differ_about_the_wanted_one() -> None:
    load = Load.of(4, 2, 64)
    assert load.num_requests == MIN_REQUESTS // 4
    seeds = [seed for stream in load.seeds for seed in stream]
    assert len(set(seeds)) == MIN_REQUESTS
    lengths = [load.max_tokens(seed) for seed in seeds]
    assert 32 <= min(lengths) < 64 < max(lengths) <= 96
    assert load.body("a", 3) != load.body("a", 4)


def test_the_picture_has_bars_to_the_scale_of_the_same_load() -> None:
    root = ET.fromstring(picture("a & b", rows_of(result())))
    widths = [float(bar.get("width", "0")) for bar in root.iter("{http://www.w3.org/2000/svg}rect") if bar.get("x")]
    assert len(widths) == 6
    assert abs(widths[1] / widths[0] - 0.98) < 0.01, "98 of 100 tokens/s"
    assert any("5.0 % lost" in (each.text or "") for each in root.iter())
