"""EdgeBench: engine and edge answer the same requests in turns, and each round is compared with itself."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain, pairwise

from model.tokenizer import Tokenizer
from router.edge_bench.load import PATH, Load
from router.edge_bench.reader import TIMEOUT_S, Read, Report, Task
from router.edge_bench.rig import EdgeRig
from router.edge_bench.turn import Turn
from router.errors import StartFailed

ENGINE, EDGE, SERVER = "engine", "edge", "server"
_GRACE_S = 30.0


@dataclass(slots=True)
class Sample:
    """What one program did in one turn."""

    tokens_per_s: float
    first_s: list[float]
    """From each request to the first piece that its client sees, while other streams run; of one alone, always."""
    crowd_first_s: list[float]
    """The same of the first request of each stream: all come at one instant."""
    gaps_s: list[float]
    """Between successive pieces of an answer."""
    texts: list[str]
    cpu_s: float = 0.0
    """Of the process with the engine; over HTTP, the edge's work is in it too. 0 of a server elsewhere."""
    client_cpu_s: float = 0.0
    before_s: list[float] = field(default_factory=list[float])
    """From a client's request to the engine's taking it in; of the requests of `first_s`."""
    after_s: list[float] = field(default_factory=list[float])
    """From the engine's telling a token to the client's having it, each piece."""


@dataclass(slots=True)
class Result:
    """All turns of one load."""

    load: Load
    num_tokens: int
    samples: dict[str, list[Sample]]
    """By program; the turns of one place were neighbours."""
    num_preemptions: int


class EdgeBench:
    """Measures loads on a rig, and a server that runs elsewhere if its (host, port, model) are given."""

    def __init__(self, rig: EdgeRig, num_rounds: int, tell: Callable[[str], None]) -> None:
        """Take `num_rounds` turns of each program."""
        self._rig, self._num_rounds, self._tell = rig, num_rounds, tell
        self._tokenizer = Tokenizer()
        self.server: tuple[str, int, str] | None = None

    def run(self, loads: Sequence[Load]) -> Iterator[Result]:
        """Yield the result of each load; raises StartFailed if a client's answer fails."""
        for load in loads:
            yield self._measure(load)

    def _measure(self, load: Load) -> Result:
        programs = {ENGINE: self._direct, EDGE: self._edge} | ({} if self.server is None else {SERVER: self._elsewhere})
        samples: dict[str, list[Sample]] = {name: [] for name in programs}
        self._tell(f"{load.num_streams} streams: warming up")
        # The edge comes first: what it asks of the engine is what the engine is asked directly.
        for name in (EDGE, *(one for one in programs if one != EDGE)):
            programs[name](load)
        preempted = self._rig.num_preemptions
        for number in range(self._num_rounds):
            # Who comes first changes, so that nobody always follows the same one.
            for name in list(programs) if number % 2 == 0 else reversed(programs):
                self._tell(f"{load.num_streams} streams: {name}, round {number + 1} of {self._num_rounds}")
                samples[name].append(programs[name](load))
        num_tokens = sum(load.max_tokens(seed) for seeds in load.seeds for seed in seeds)
        return Result(load, num_tokens, samples, self._rig.num_preemptions - preempted)

    def _direct(self, load: Load) -> Sample:
        turn = self._rig.direct(load.seeds)
        return self._sample(load, self._heard(turn, load), turn.cpu_s)

    def _edge(self, load: Load) -> Sample:
        reports: list[Report] = []
        turn = self._rig.tapped(lambda: reports.append(_read((*self._rig.address, self._rig.model), load)))
        (report,) = reports
        sample = self._sample(load, report.answers, turn.cpu_s)
        sample.client_cpu_s = report.cpu_s
        heard = chain.from_iterable(self._heard(turn, load))
        for seed, read, told in zip(chain(*load.seeds), chain(*report.answers), heard, strict=True):
            if seed % load.num_requests >= load.num_in_crowd:
                sample.before_s.append(turn.spoken[seed].admitted_s - read.sent_s)
            sample.after_s += [at_s - told_s for at_s, told_s in zip(read.arrivals_s, told.arrivals_s, strict=False)]
        return sample

    def _elsewhere(self, load: Load) -> Sample:
        assert self.server is not None, "a server is asked only if there is one"
        report = _read(self.server, load)
        sample = self._sample(load, report.answers, 0.0)
        sample.client_cpu_s = report.cpu_s
        return sample

    def _heard(self, turn: Turn, load: Load) -> list[list[Read]]:
        """Return what a client beside the engine would have read."""
        return [
            [Read(turn.spoken[seed].admitted_s, *turn.spoken[seed].visible(self._tokenizer)) for seed in seeds]
            for seeds in load.seeds
        ]

    @staticmethod
    def _sample(load: Load, answers: list[list[Read]], cpu_s: float) -> Sample:
        reads = [read for stream in answers for read in stream]
        began_s, ended_s = min(read.sent_s for read in reads), max(read.arrivals_s[-1] for read in reads)
        num_tokens = sum(load.max_tokens(seed) for seeds in load.seeds for seed in seeds)
        return Sample(
            tokens_per_s=num_tokens / (ended_s - began_s),
            first_s=[_first_s(read) for stream in answers for read in stream[load.num_in_crowd :]],
            crowd_first_s=[_first_s(read) for stream in answers for read in stream[: load.num_in_crowd]],
            gaps_s=[later - sooner for read in reads for sooner, later in pairwise(read.arrivals_s)],
            texts=[read.text for read in reads],
            cpu_s=cpu_s,
        )


def _first_s(read: Read) -> float:
    return read.arrivals_s[0] - read.sent_s


def _read(server: tuple[str, int, str], load: Load) -> Report:
    """Let a reader of its own process ask everything; raises StartFailed with its words."""
    host, port, model = server
    streams = [[load.body(model, seed).decode() for seed in seeds] for seeds in load.seeds]
    process = subprocess.run(
        [sys.executable, "-m", "router.edge_bench.reader"],
        input=json.dumps(asdict(Task(host, port, PATH, streams))),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S + _GRACE_S,
        check=False,
    )
    if process.returncode != 0:
        raise StartFailed(f"the client failed: {process.stderr.strip().splitlines()[-1:]}")
    found = json.loads(process.stdout)
    return Report([[Read(**read) for read in stream] for stream in found["answers"]], found["cpu_s"])
