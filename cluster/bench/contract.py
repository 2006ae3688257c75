"""What the exactness contract costs: this engine's step, and what torch's own kernels would save of it.

Torch's products and attention choose their sums by the number of rows, so no server may use them here; some are faster.
In every round the engine makes its steps, and each op of such a step is timed as it is and as torch does it. The cost
is how much longer the step takes than one that had the faster of both for every op:

    cost = step / (step - saved) - 1,    saved = sum of calls * (ours - theirs) over ops where theirs is faster

Which is faster, the medians of all rounds decide; so noise of one round cannot be picked as a gain.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch

from cluster.bench.contract_ops import DTYPES, Op, StepOps, StepSize
from cluster.bench.engine import DECODE_PROMPT_TOKENS, EngineBench, decode_work, prefill_work
from cluster.bench.roofline import Roofline, durations_s, with_torch_threads
from cluster.bench.rows import BenchRow, Timing, Value, roofline_share
from model.config import ModelConfig

BATCHES, PROMPTS = (1, 4, 8, 16), (128, 512)
NUM_CALLS = 3
QUIET_S = 0.02
"""After torch's turn: its threads spin for a while."""
_LEAST_SHARE = 0.01
"""Of the step that is left at least, whatever was measured."""
SAME_ACCURACY = ("float32",)
Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class ContractWork:
    """What to measure."""

    geometry: str
    batches: Sequence[int] = BATCHES
    prompts: Sequence[int] = PROMPTS
    num_steps: int = 32
    num_rounds: int = 5
    dense_dtype: torch.dtype = torch.bfloat16


@dataclass(slots=True)
class OpTimes:
    """Seconds of one call, by round."""

    op: Op
    ours: list[float] = field(default_factory=list[float])
    theirs: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in DTYPES})

    def fastest(self, dtypes: Sequence[str]) -> list[float] | None:
        """Return torch's times in the fastest of `dtypes`, or None if ours are faster."""
        best = min((self.theirs[dtype] for dtype in dtypes), key=statistics.median)
        return best if statistics.median(best) < statistics.median(self.ours) else None


@dataclass(slots=True)
class StepTimes:
    """One kind of step with what was measured of it."""

    name: str
    number: int
    ops: list[OpTimes]
    seconds: list[float] = field(default_factory=list[float])

    def costs(self, dtypes: Sequence[str]) -> list[float]:
        """Return the cost in each round if torch may compute in `dtypes`."""
        saved_s = [0.0] * len(self.seconds)
        for each in self.ops:
            theirs = each.fastest(dtypes)
            for place, their_s in enumerate(theirs or []):
                saved_s[place] += each.op.calls_per_step * (each.ours[place] - their_s)
        pairs = zip(self.seconds, saved_s, strict=True)
        return [step_s / max(step_s - less_s, _LEAST_SHARE * step_s) - 1 for step_s, less_s in pairs]


class Contract:
    """The measurement; `engine` has the model of `config` loaded and is entered."""

    def __init__(self, engine: EngineBench, config: ModelConfig, work: ContractWork, report: Report) -> None:
        """Make up the matrices of the ops."""
        self._engine = engine
        self._config = config
        self._work = work
        self._report = report
        ops = StepOps(config, work.dense_dtype)
        context = DECODE_PROMPT_TOKENS + work.num_steps // 2
        sizes = [("decode", batch, StepSize(batch, 1, context)) for batch in work.batches]
        sizes += [("prefill", prompt, StepSize(1, prompt, prompt)) for prompt in work.prompts]
        self._steps = [StepTimes(name, number, [OpTimes(op) for op in ops.of(size)]) for name, number, size in sizes]

    def run(self) -> None:
        """Measure all steps in every round."""
        for number in range(self._work.num_rounds):
            for step in self._steps:
                self._report(f"round {number + 1} of {self._work.num_rounds}: {step.name} {step.number}")
                step.seconds.append(self._step_s(step))
                for each in step.ops:
                    _measure(each)

    def rows(self, roof: Roofline) -> Iterator[BenchRow]:
        """Yield for each step a row of its cost, then one for each of its ops, once `run` is done."""
        for step in self._steps:
            size = {"batch" if step.name == "decode" else "prompt": step.number}
            timing = Timing(tuple(step.seconds))
            work = self._decode_work(step.number) if step.name == "decode" else prefill_work(self._config, step.number)
            share, bound = roofline_share(*work, timing.median_s, roof)
            model: dict[str, Value] = {"geometry": self._work.geometry, "layers": self._config.num_layers}
            yield BenchRow(f"contract, {step.name}", {**model, **size, **_cost_facts(step)}, timing, share, bound)
            for each in step.ops:
                yield BenchRow("contract, op", {**size, **_op_facts(each)}, Timing(tuple(each.ours)), None)

    def _step_s(self, step: StepTimes) -> float:
        if step.name == "prefill":
            return self._engine.prefill(step.number)
        return statistics.median(self._engine.decode(step.number))

    def _decode_work(self, batch: int) -> tuple[float, float]:
        return decode_work(self._config, batch, DECODE_PROMPT_TOKENS + self._work.num_steps // 2)


def _measure(times: OpTimes) -> None:
    """Time one op, ours and theirs."""
    times.ours.append(statistics.median(durations_s(times.op.ours, NUM_CALLS)))
    for dtype, call in times.op.theirs.items():
        measured = with_torch_threads(lambda call=call: durations_s(call, NUM_CALLS))
        times.theirs[dtype].append(statistics.median(measured))
        time.sleep(QUIET_S)


def _cost_facts(step: StepTimes) -> dict[str, Value]:
    """Return the cost beside torch of the same accuracy, its ends, the ops, and the cost if bfloat16 is allowed too."""
    costs = step.costs(SAME_ACCURACY)
    return {
        "cost": round(statistics.median(costs), 4),
        "cost_low": round(min(costs), 4),
        "cost_high": round(max(costs), 4),
        "faster_in_torch": "; ".join(each.op.name for each in step.ops if each.fastest(SAME_ACCURACY)),
        "cost_with_bfloat16": round(statistics.median(step.costs(tuple(DTYPES))), 4),
        "faster_with_bfloat16": "; ".join(each.op.name for each in step.ops if each.fastest(tuple(DTYPES))),
    }


def _op_facts(times: OpTimes) -> dict[str, Value]:
    torch_ms: dict[str, Value] = {
        f"torch_{dtype}_ms": round(statistics.median(seconds) * 1e3, 4) for dtype, seconds in times.theirs.items()
    }
    return {"op": times.op.name, "calls_per_step": times.op.calls_per_step, **torch_ms}
