"""From turns to rows: what each program did, and what the edge adds to the engine, round by round."""

import json
import math
import os
import statistics
from collections.abc import Sequence

from cluster.bench.rows import commit, processor_name
from model.fingerprint import kernel_build
from model.kernels.threads import num_threads
from router.edge_bench.contest import ENGINE, Result, Sample

Value = str | int | float | bool | None
Row = dict[str, Value]


def rows_of(result: Result) -> list[Row]:
    """Return one row for each program of a load."""
    return [_row(result, program) for program in result.samples]


def machine() -> Row:
    """Return what a reader must know of the machine, its load now, and the program that was measured."""
    return {
        "processor": processor_name(),
        "num_cpus": os.cpu_count(),
        "threads": num_threads(),
        "load_average": round(os.getloadavg()[0], 1),
        "kernels": kernel_build("cpu"),
        "commit": commit(),
    }


def to_json(row: Row, about: Row) -> str:
    """Return a row as one line of JSON."""
    return json.dumps({"bench": "edge", **row, **about})


def percentile_ms(durations_s: Sequence[float], share: float) -> float | None:
    """Return a percentile by rank, in ms; None of none."""
    if not durations_s:
        return None
    return round(1e3 * sorted(durations_s)[max(0, math.ceil(share * len(durations_s)) - 1)], 3)


def _row(result: Result, program: str) -> Row:
    samples, load = result.samples[program], result.load
    first_s = [one for sample in samples for one in sample.first_s]
    gaps_s = [one for sample in samples for one in sample.gaps_s]
    row: Row = {
        "program": program,
        "streams": load.num_streams,
        "requests": load.num_streams * load.num_requests,
        "tokens": result.num_tokens,
        "rounds": len(samples),
        "tokens_per_s": round(statistics.median(sample.tokens_per_s for sample in samples), 1),
        "first_ms": percentile_ms(first_s, 0.5),
        "first_p99_ms": percentile_ms(first_s, 0.99),
        "crowd_first_ms": percentile_ms([one for sample in samples for one in sample.crowd_first_s], 0.5),
        "token_ms": percentile_ms(gaps_s, 0.5),
        "token_p99_ms": percentile_ms(gaps_s, 0.99),
        "cpu_us_per_token": _us_per_token([sample.cpu_s for sample in samples], result.num_tokens),
        "preemptions": result.num_preemptions,
    }
    return row if program == ENGINE else row | _added(result, program)


def _added(result: Result, program: str) -> Row:
    """Return what a program adds to the engine; each round is compared with itself, and the middle one is told."""
    samples, pairs = result.samples[program], list(zip(result.samples[program], result.samples[ENGINE], strict=True))
    lost = sorted(1 - one.tokens_per_s / engine.tokens_per_s for one, engine in pairs)
    before_s = [one for sample in samples for one in sample.before_s]
    after_s = [one for sample in samples for one in sample.after_s]
    return {
        "throughput_lost": round(statistics.median(lost), 4),
        "throughput_lost_low": round(lost[0], 4),
        "throughput_lost_high": round(lost[-1], 4),
        "first_added_ms": _added_ms([(one.first_s, engine.first_s) for one, engine in pairs]),
        "crowd_first_added_ms": _added_ms([(one.crowd_first_s, engine.crowd_first_s) for one, engine in pairs]),
        "token_added_ms": _added_ms([(one.gaps_s, engine.gaps_s) for one, engine in pairs]),
        "before_ms": percentile_ms(before_s, 0.5),
        "before_p99_ms": percentile_ms(before_s, 0.99),
        "after_ms": percentile_ms(after_s, 0.5),
        "after_p99_ms": percentile_ms(after_s, 0.99),
        "cpu_us_per_token_added": _cpu_added(pairs, result.num_tokens),
        "client_cpu_us_per_token": _us_per_token([sample.client_cpu_s for sample in samples], result.num_tokens),
        "same_texts": all(one.texts == engine.texts for one, engine in pairs),
    }


def _added_ms(pairs: Sequence[tuple[Sequence[float], Sequence[float]]]) -> float | None:
    differences = [statistics.median(one) - statistics.median(engine) for one, engine in pairs if one and engine]
    return round(1e3 * statistics.median(differences), 3) if differences else None


def _cpu_added(pairs: Sequence[tuple[Sample, Sample]], num_tokens: int) -> float | None:
    if not all(one.cpu_s for one, _ in pairs):
        return None  # it ran in another process
    return round(1e6 * statistics.median(one.cpu_s - engine.cpu_s for one, engine in pairs) / num_tokens, 1)


def _us_per_token(cpu_s: Sequence[float], num_tokens: int) -> float | None:
    return round(1e6 * statistics.median(cpu_s) / num_tokens, 1) if any(cpu_s) else None
