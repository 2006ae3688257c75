"""This engine beside another program: the same weights, the same work, in turns within one call.

Every program runs in a process of its own. If memory holds them all, they stay loaded and take each piece of work one
after the other, in every second round the other way round, so that what else the machine does falls on all alike.
If it does not, each is loaded anew in every round.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from cluster.bench.contestant import OWN_NAME, Contestant, Entry, PeerName
from cluster.bench.engine import DECODE_PROMPT_TOKENS, decode_work, prefill_work
from cluster.bench.model_files import ModelFiles
from cluster.bench.peers.talk import LoadOrder
from cluster.bench.roofline import Roofline
from cluster.bench.rows import BenchRow, Timing, Value, roofline_share
from cluster.engine.free_memory import free_bytes

QUIET_S = 0.3
"""Between two programs' work: a peer's idle threads may spin for a while."""
WARM_UP_TOKENS = 128
"""A prompt that nobody times: it wakes the threads, and asks nearly every expert, whose weights may be on disk yet."""
_SPARE_BYTES = 2_000_000_000
_MEMORY_FACTORS = {OWN_NAME: 1.1, "llama.cpp": 1.7, "transformers": 2.2}
"""Peak memory by the bytes of what is loaded: llama.cpp maps a file and repacks it, float32 doubles bf16."""

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Task:
    """One piece of work that is timed."""

    name: Literal["decode", "prefill"]
    size: int
    """Sequences decoded together, or tokens of the prompt."""

    def run(self, contestant: Contestant) -> float:
        """Return the seconds that it takes: of a step, in the middle, or of the prompt."""
        seconds = contestant.decode(self.size) if self.name == "decode" else contestant.prefill(self.size)
        return statistics.median(seconds)


@dataclass(frozen=True, slots=True)
class Peer:
    """The other program."""

    name: PeerName
    python: Path | None = None
    """The interpreter of its environment; by default this one."""
    options: dict[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class AgainstWork:
    """What to measure, and with whom."""

    peer: Peer
    numerics: Sequence[dict[str, str]]
    """Fields of the numerics section, `mode` among them: one for each form in which this engine takes part."""
    batches: Sequence[int] = (1, 8)
    prompts: Sequence[int] = (512,)
    num_steps: int = 32
    num_rounds: int = 5
    num_threads: int = 2

    def tasks(self) -> list[Task]:
        """Return all pieces of work."""
        return [*(Task("decode", size) for size in self.batches), *(Task("prefill", size) for size in self.prompts)]


@dataclass(slots=True)
class _Score:
    """What one program has shown."""

    seconds: dict[Task, list[float]]
    version: str = ""
    load_s: list[float] = field(default_factory=list[float])
    peak_bytes: int = 0


class Against:
    """A comparison: first the model files, then rounds, then rows."""

    def __init__(self, work: AgainstWork, files: ModelFiles, report: Report) -> None:
        """Write what the programs load, if it is not there; raises what that raises."""
        self._work = work
        self._files = files
        self._report = report
        self.entries = _entries(work, files)
        for numerics in work.numerics:
            files.keep_packed(numerics["mode"])
        self._scores = {entry.label: _Score({task: [] for task in work.tasks()}) for entry in self.entries}

    def run(self) -> None:
        """Let everyone take part in every round. Raises PeerAbsent or PeerFailed."""
        if self._fit_together():
            with ExitStack() as stack:
                running = [stack.enter_context(self._load(entry)) for entry in self.entries]
                for number in range(self._work.num_rounds):
                    self._round(number, running if number % 2 == 0 else running[::-1])
                for contestant in running:
                    self._note_peak(contestant)
            return
        for number in range(self._work.num_rounds):
            for entry in self.entries if number % 2 == 0 else self.entries[::-1]:
                with self._load(entry) as contestant:
                    self._round(number, [contestant])
                    self._note_peak(contestant)

    def rows(self, roof: Roofline) -> Iterator[BenchRow]:
        """Yield a row for each piece of work and program, once all rounds have run."""
        config = self._files.config
        peer = self.entries[-1].label
        for task in self._work.tasks():
            theirs = self._scores[peer].seconds[task]
            for entry in self.entries:
                score = self._scores[entry.label]
                own = _facts(entry.label, task, score)
                if entry.label != peer:
                    own |= _ratios(score.seconds[task], theirs)
                timing = Timing(tuple(score.seconds[task]))
                share, bound = self._share(task, timing.median_s, roof)
                if entry.program == "transformers":  # it has no MXFP4 here, so it reads other bytes
                    share, bound = None, ""
                model: dict[str, Value] = {"geometry": self._files.geometry, "layers": config.num_layers}
                yield BenchRow(task.name, {**model, **own, "version": score.version}, timing, share, bound)

    def _round(self, number: int, running: Sequence[Contestant]) -> None:
        for task in self._work.tasks():
            for contestant in running:
                label = contestant.entry.label
                self._report(f"round {number + 1} of {self._work.num_rounds}: {task.name} {task.size}, {label}")
                time.sleep(QUIET_S)
                self._scores[label].seconds[task].append(task.run(contestant))

    def _load(self, entry: Entry) -> Contestant:
        self._report(f"loading {entry.label}")
        contestant = Contestant(entry)
        score = self._scores[entry.label]
        score.version = contestant.version
        score.load_s.append(contestant.load_s)
        contestant.prefill(WARM_UP_TOKENS)
        return contestant

    def _note_peak(self, contestant: Contestant) -> None:
        score = self._scores[contestant.entry.label]
        score.peak_bytes = max(score.peak_bytes, contestant.peak_bytes())

    def _share(self, task: Task, seconds: float, roof: Roofline) -> tuple[float | None, str]:
        config, has_q8_dense = self._files.config, self._files.dense == "q8_0"
        if task.name == "prefill":
            return roofline_share(*prefill_work(config, task.size, has_q8_dense), seconds, roof)
        context_tokens = DECODE_PROMPT_TOKENS + self._work.num_steps // 2
        return roofline_share(*decode_work(config, task.size, context_tokens, has_q8_dense), seconds, roof)

    def _fit_together(self) -> bool:
        wanted = sum(_MEMORY_FACTORS[entry.program] * _file_bytes(Path(entry.order.path)) for entry in self.entries)
        return wanted + _SPARE_BYTES < free_bytes("cpu")


def _entries(work: AgainstWork, files: ModelFiles) -> list[Entry]:
    """Return this engine in each of its modes, and the peer last."""

    def order(path: Path, options: dict[str, str]) -> LoadOrder:
        return LoadOrder(
            path=str(path),
            num_threads=work.num_threads,
            max_sequences=max([*work.batches, 1]),
            context_tokens=max([*work.prompts, DECODE_PROMPT_TOKENS + work.num_steps]) + WARM_UP_TOKENS,
            num_steps=work.num_steps,
            num_prompt=DECODE_PROMPT_TOKENS,
            options=options,
        )

    own = [Entry(_label(each), OWN_NAME, order(files.gguf(), each)) for each in work.numerics]
    peer = work.peer
    return [*own, Entry(peer.name, peer.name, order(files.of(peer.name), peer.options), peer.python)]


def _label(numerics: dict[str, str]) -> str:
    return " ".join([OWN_NAME, *(value for value in numerics.values() if value != "bfloat16")])


def _facts(label: str, task: Task, score: _Score) -> dict[str, Value]:
    num_tokens, size_name = task.size, "batch" if task.name == "decode" else "prompt"
    return {
        "program": label,
        size_name: task.size,
        "tokens_per_s": round(num_tokens / statistics.median(score.seconds[task]), 2),
        "load_s": round(score.load_s[-1], 2),
        "peak_gb": round(score.peak_bytes / 1e9, 2),
    }


def _ratios(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Value]:
    """Return how many times the peer's tokens a second ours are: round by round, the middle and the ends."""
    ratios = sorted(their / our for our, their in zip(ours, theirs, strict=True))
    low, middle, high = ratios[0], statistics.median(ratios), ratios[-1]
    return {"ratio": round(middle, 3), "ratio_low": round(low, 3), "ratio_high": round(high, 3)}


def _file_bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in (path.rglob("*") if path.is_dir() else [path]))
