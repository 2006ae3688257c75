"""The edge's metrics, `expertmesh_*`: requests, waiting for the first token, between tokens, tokens, places taken.

One registry for each service, so that several can live in one process. `request_meter` measures one request.
"""

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

from cluster.cluster_status import BalanceStatus
from router.generation import OUTCOME_LEFT, OUTCOME_OK

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_FIRST_TOKEN_S = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 30.0)
_BETWEEN_TOKENS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
_REQUEST_S = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 300.0, 1200.0)
_IMBALANCE = "The fullest expert worker's load over the mean: as planned for the traffic, and as really sent"
_KINDS = {OUTCOME_OK: ("ok", "200"), OUTCOME_LEFT: ("cancelled", "499")}

# Times of creation would be gauges of their own for every counter, and nobody reads them.
disable_created_metrics()


class Metrics:
    """All metrics of one edge replica."""

    def __init__(self) -> None:
        """Make a registry of their own."""
        self.registry = CollectorRegistry()
        self._requests = self._counter(
            "requests",
            "Requests that ended, each once; outcome is ok, cancelled (the client left), 4xx or 5xx",
            ["endpoint", "outcome", "status"],
        )
        self._running = self._gauge("requests_running", "Requests that hold a place at this edge")
        self._first_token = self._histogram(
            "time_to_first_token_seconds", "From a request's arrival to its first token", _FIRST_TOKEN_S
        )
        self._queue = self._histogram(
            "queue_seconds", "From a prompt's arrival at an engine to the step that it first ran in", _FIRST_TOKEN_S
        )
        self._between = self._histogram(
            "inter_token_seconds", "Between two tokens of one sequence, as the edge receives them", _BETWEEN_TOKENS_S
        )
        self._duration = self._histogram(
            "request_seconds", "From a request's arrival to its end, if it was given a place", _REQUEST_S, ["outcome"]
        )
        self._prompt = self._counter("prompt_tokens", "Tokens of prompts that an engine took in and began to answer")
        self._cached = self._counter("cached_prompt_tokens", "Tokens of prompts that the engine had computed before")
        self._completion = self._counter("completion_tokens", "Tokens generated, those of reasoning included")
        self._reasoning = self._counter("reasoning_tokens", "Tokens of reasoning")
        self._sequences = self._gauge("engine_sequences", "Sequences at the engines, by state", ["state"])
        self._blocks = self._gauge("engine_kv_blocks", "Blocks of the KV caches, by state", ["state"])
        self._drafts = self._gauge(
            "engine_draft_tokens", "Tokens guessed ahead since the engines started, by outcome", ["outcome"]
        )
        self._imbalance = self._gauge("expert_imbalance_ratio", _IMBALANCE, ["source"])
        self._balance_age = self._gauge("expert_balance_age_seconds", "Since the last round of balancing ended")
        self._loads = self._gauge("expert_loads", "Experts loaded to be moved since the supervisor began")
        self._rescued = self._gauge("experts_rescued", "Experts that workers hold in place of workers that are away")

    def take_place(self) -> None:
        """Count a request that holds a place from now on."""
        self._running.inc()

    def give_place_back(self) -> None:
        """Count one less."""
        self._running.dec()

    def set_engine(self, running: int, waiting: int, kv_blocks_used: int, kv_blocks_free: int) -> None:
        """Take what the engines last said of themselves."""
        self._sequences.labels("running").set(running)
        self._sequences.labels("waiting").set(waiting)
        self._blocks.labels("used").set(kv_blocks_used)
        self._blocks.labels("free").set(kv_blocks_free)

    def set_drafts(self, num_drafted: int, num_accepted: int) -> None:
        """Take how many tokens the engines guessed ahead, and how many of them were right."""
        self._drafts.labels("accepted").set(num_accepted)
        self._drafts.labels("rejected").set(num_drafted - num_accepted)

    def set_balance(self, balance: BalanceStatus) -> None:
        """Take how evenly the expert workers share the traffic."""
        self._imbalance.labels("planned").set(balance.imbalance)
        if balance.measured_imbalance is not None:
            self._imbalance.labels("measured").set(balance.measured_imbalance)
        self._balance_age.set(balance.round_age_s)
        self._loads.set(balance.num_loads)

    def set_rescued(self, num_rescued: int) -> None:
        """Take how many experts workers hold in place of others."""
        self._rescued.set(num_rescued)

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

    def observe_queue(self, seconds: float) -> None:
        """Count how long a prompt waited at its engine."""
        self._queue.observe(seconds)

    def observe_between_tokens(self, seconds: float) -> None:
        """Count the wait for another token."""
        self._between.observe(seconds)

    def count_request(self, endpoint: str, outcome: str) -> None:
        """Count a request that ended: ok, cancelled, or with an HTTP status as digits."""
        kind, status = _KINDS.get(outcome) or (f"{outcome[0]}xx", outcome)
        self._requests.labels(endpoint, kind, status).inc()

    def observe_request(self, outcome: str, seconds: float) -> None:
        """Count the duration of a request that was given a place."""
        kind, _ = _KINDS.get(outcome) or (f"{outcome[0]}xx", outcome)
        self._duration.labels(kind).observe(seconds)

    def _counter(self, name: str, text: str, labels: Sequence[str] = ()) -> Counter:
        return Counter(name, text, labels, namespace="expertmesh", registry=self.registry)

    def _gauge(self, name: str, text: str, labels: Sequence[str] = ()) -> Gauge:
        return Gauge(name, text, labels, namespace="expertmesh", registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: Sequence[float], labels: Sequence[str] = ()) -> Histogram:
        return Histogram(name, text, labels, namespace="expertmesh", buckets=buckets, registry=self.registry)
