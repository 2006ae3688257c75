"""The edge's metrics, `expertmesh_*`: requests, waiting for the first token, between tokens, tokens, places taken.

One registry for each service, so that several can live in one process. `RequestMeter` measures one request; times come
from the clock it is given.
"""

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

from cluster.clock import Clock

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_FIRST_TOKEN_S = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 30.0)
_BETWEEN_TOKENS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
_REQUEST_S = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 300.0, 1200.0)

# Times of creation would be gauges of their own for every counter, and nobody reads them.
disable_created_metrics()


class Metrics:
    """All metrics of one edge replica."""

    def __init__(self) -> None:
        """Make a registry of their own."""
        self.registry = CollectorRegistry()
        self._requests = self._counter(
            "requests", "Requests that ended, by endpoint and outcome", ["endpoint", "outcome"]
        )
        self._running = self._gauge("requests_running", "Requests that hold a place at this edge")
        self._first_token = self._histogram(
            "time_to_first_token_seconds", "From a request's arrival to its first token", _FIRST_TOKEN_S
        )
        self._between = self._histogram(
            "inter_token_seconds", "Between two tokens of one sequence, as the edge receives them", _BETWEEN_TOKENS_S
        )
        self._duration = self._histogram("request_seconds", "From a request's arrival to its end", _REQUEST_S)
        self._prompt = self._counter("prompt_tokens", "Tokens of prompts")
        self._cached = self._counter("cached_prompt_tokens", "Tokens of prompts that the engine had computed before")
        self._completion = self._counter("completion_tokens", "Tokens generated, those of reasoning included")
        self._reasoning = self._counter("reasoning_tokens", "Tokens of reasoning")
        self._sequences = self._gauge("engine_sequences", "Sequences at the engines, by state", ["state"])
        self._blocks = self._gauge("engine_kv_blocks", "Blocks of the KV caches, by state", ["state"])

    def start(self, endpoint: str, clock: Clock) -> "RequestMeter":
        """Begin to measure a request."""
        self._running.inc()
        return RequestMeter(self, endpoint, clock)

    def set_engine(self, running: int, waiting: int, kv_blocks_used: int, kv_blocks_free: int) -> None:
        """Take what the engines last said of themselves."""
        self._sequences.labels("running").set(running)
        self._sequences.labels("waiting").set(waiting)
        self._blocks.labels("used").set(kv_blocks_used)
        self._blocks.labels("free").set(kv_blocks_free)

    def render(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def count_prompt(self, num_tokens: int, num_cached: int) -> None:
        """Count a prompt's tokens, and those of them that were cached."""
        self._prompt.inc(num_tokens)
        self._cached.inc(num_cached)

    def count_completion(self, num_tokens: int, num_reasoning: int) -> None:
        """Count a choice's tokens, and those of them that were reasoning."""
        self._completion.inc(num_tokens)
        self._reasoning.inc(num_reasoning)

    def observe_first_token(self, seconds: float) -> None:
        """Count a first token."""
        self._first_token.observe(seconds)

    def observe_between_tokens(self, seconds: float) -> None:
        """Count the wait for another token."""
        self._between.observe(seconds)

    def end(self, endpoint: str, outcome: str, seconds: float) -> None:
        """Count a request that ended."""
        self._running.dec()
        self._requests.labels(endpoint, outcome).inc()
        self._duration.observe(seconds)

    def _counter(self, name: str, text: str, labels: Sequence[str] = ()) -> Counter:
        return Counter(name, text, labels, namespace="expertmesh", registry=self.registry)

    def _gauge(self, name: str, text: str, labels: Sequence[str] = ()) -> Gauge:
        return Gauge(name, text, labels, namespace="expertmesh", registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: Sequence[float]) -> Histogram:
        return Histogram(name, text, namespace="expertmesh", buckets=buckets, registry=self.registry)


class RequestMeter:
    """Measures one request, whatever its number of choices. Ending it twice is once."""

    def __init__(self, metrics: Metrics, endpoint: str, clock: Clock) -> None:
        """Start now."""
        self._metrics = metrics
        self._endpoint = endpoint
        self._clock = clock
        self._started_s = clock.now_s()
        self._last_token_s: dict[int, float] = {}
        self._has_ended = False

    def saw_tokens(self, choice: int, num_tokens: int) -> None:
        """Note that `num_tokens` tokens of a choice arrived now."""
        now_s = self._clock.now_s()
        last_s = self._last_token_s.get(choice)
        if last_s is not None:
            self._metrics.observe_between_tokens((now_s - last_s) / num_tokens)
        elif not self._last_token_s:
            self._metrics.observe_first_token(now_s - self._started_s)
        self._last_token_s[choice] = now_s

    def end(self, outcome: str) -> None:
        """Note how the request ended."""
        if not self._has_ended:
            self._has_ended = True
            self._metrics.end(self._endpoint, outcome, self._clock.now_s() - self._started_s)
