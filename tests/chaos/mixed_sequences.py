"""Eighteen sequences of different kinds, run at once, and all that is compared of what becomes of them."""

import itertools
import queue
import time
from dataclasses import dataclass, field

from cluster.engine.engine_thread import EngineThread
from cluster.engine.sequence import SequenceRequest, TokenEvent
from model.sampling_params import SamplingParams

WAIT_S = 120.0


@dataclass
class Trace:
    """What one sequence gave: equal ones had equal bits in every layer of every step."""

    token_ids: list[int] = field(default_factory=list[int])
    digests: list[str] = field(default_factory=list[str])
    """Of the logits that each token was drawn from."""
    finish_reason: str | None = None


@dataclass
class Outcome:
    """What a run of all sequences gave, and when."""

    traces: dict[str, Trace]
    arrivals_s: dict[str, list[float]]
    """When each token was released, by sequence; not compared."""

    @property
    def largest_gap_s(self) -> float:
        """Return the longest that any stream waited for its next token."""
        pairs = (pair for times in self.arrivals_s.values() for pair in itertools.pairwise(times))
        return max(later - sooner for sooner, later in pairs)


def mixed_sequences(num_tokens: int = 14) -> list[SequenceRequest]:
    """Return greedy and sampled ones, short and long prompts, stops and penalties; half end by themselves."""
    requests: list[SequenceRequest] = []
    for number in range(18):
        kind = number % 6
        params = SamplingParams(
            max_tokens=num_tokens + number % 4,
            seed=number,
            temperature=0.0 if kind == 0 else 1.5,
            top_p=0.9 if kind == 1 else 1.0,
            frequency_penalty=0.5 if kind == 2 else 0.0,
            ignore_eos=number % 2 == 0,
            stop_token_ids=tuple(range(0, 200_000, 7)) if number == 5 else (),
        )
        length = 150 if kind == 3 else 3 + 5 * number
        prompt = tuple((number * 977 + place * 131) % 200_000 for place in range(length))
        requests.append(SequenceRequest(f"sequence-{number}", prompt, params))
    return requests


def run_all(engine: EngineThread, requests: list[SequenceRequest]) -> Outcome:
    """Run all requests at once; fail if one ends with an error, or a token is lost or comes twice."""
    steps: queue.SimpleQueue[list[TokenEvent]] = queue.SimpleQueue()
    times: queue.SimpleQueue[float] = queue.SimpleQueue()

    def on_step(events: list[TokenEvent]) -> None:
        times.put(time.monotonic())
        steps.put(events)

    engine.on_step = on_step
    traces = {request.sequence_id: Trace() for request in requests}
    arrivals_s: dict[str, list[float]] = {sequence_id: [] for sequence_id in traces}
    for request in requests:
        engine.admit(request)
    while any(trace.finish_reason is None for trace in traces.values()):
        events, now_s = steps.get(timeout=WAIT_S), times.get()
        for event in events:
            assert event.error is None, event
            trace = traces[event.sequence_id]
            assert event.index == len(trace.token_ids), f"lost or repeated: {event} after {trace}"
            trace.token_ids += event.token_ids
            trace.digests += event.digests
            trace.finish_reason = event.finish_reason
            arrivals_s[event.sequence_id] += [now_s] * len(event.token_ids)
    engine.check_integrity()
    return Outcome(traces, arrivals_s)
