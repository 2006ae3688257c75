"""The engine on one machine without any server: decode at several batch sizes, prefill at several lengths."""

import itertools
import queue
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from cluster.bench.peers.talk import WARM_UP_STEPS, peak_bytes
from cluster.bench.roofline import Roofline
from cluster.bench.rows import BenchRow, Timing, Value, roofline_share
from cluster.config import AttentionSection, EngineSection, ModelSection, NumericsSection
from cluster.engine.sequence import SequenceRequest, TokenEvent
from cluster.standalone import Standalone, StandaloneSections
from model.checkpoint.weights import WeightSource
from model.config import ModelConfig
from model.load import LoadProgress
from model.q8 import BLOCK_BYTES, BLOCK_VALUES
from model.sampling_params import SamplingParams
from model.sizes import BF16_BYTES, part_bytes

STEP_TIMEOUT_S = 600.0
DECODE_PROMPT_TOKENS = 64
_SEED = 20
_KV_BYTES_PER_VALUE = 2


@dataclass(frozen=True, slots=True)
class EngineWork:
    """What to measure."""

    geometry: str
    batches: Sequence[int] = (1, 4, 8, 16)
    prompts: Sequence[int] = (128, 512, 4096)
    num_steps: int = 32
    """Decode steps that are timed."""
    num_repeats: int = 5
    """Prompts of each length that are timed."""
    num_prompt: int = DECODE_PROMPT_TOKENS
    """Prompt tokens of each decoding sequence."""
    temperature: float = 1.0
    sections: StandaloneSections = field(
        default_factory=lambda: StandaloneSections(
            ModelSection(), NumericsSection(), EngineSection(), AttentionSection()
        )
    )


class EngineBench:
    """A loaded model whose engine is timed. A context manager: leaving it ends the engine."""

    def __init__(self, weights: WeightSource, work: EngineWork, report: Callable[[LoadProgress], None]) -> None:
        """Load the model; raises what `Standalone.of` raises."""
        started_s = time.perf_counter()
        self._work = work
        self._standalone = Standalone.of(weights, work.sections, report)
        self.load_s = time.perf_counter() - started_s
        self._config = weights.config
        self._random = np.random.Generator(np.random.PCG64(_SEED))
        self._steps: queue.SimpleQueue[tuple[float, list[TokenEvent]]] = queue.SimpleQueue()
        self._num_requests = 0

    def __enter__(self) -> "EngineBench":
        self._standalone.start(lambda events: self._steps.put((time.perf_counter(), events)))
        return self

    def __exit__(self, *_: object) -> None:
        self._standalone.stop()

    def check_integrity(self) -> None:
        """Assert that nothing of what was measured is left in the engine."""
        self._standalone.engine.check_integrity()
        stats = self._standalone.engine.stats()
        assert stats.num_running == stats.num_waiting == 0, stats

    def rows(self, roof: Roofline) -> Iterator[BenchRow]:
        """Yield one row for each batch size and each prompt length."""
        for batch in self._work.batches:
            yield self._decode_row(batch, roof)
        for num_tokens in self._work.prompts:
            if num_tokens < self._standalone.engine.limits.max_context_tokens:
                yield self._prefill_row(num_tokens, roof)

    def decode(self, batch: int) -> list[float]:
        """Return the seconds of each timed step while `batch` sequences run and nothing else happens."""
        num_steps = self._work.num_steps + 2 * WARM_UP_STEPS + batch
        names = {self._admit(self._work.num_prompt, num_steps) for _ in range(batch)}
        full_at_s: list[float] = []
        while names:
            at_s, events = self._steps.get(timeout=STEP_TIMEOUT_S)
            if len(events) == batch and all(event.finish_reason is None for event in events):
                full_at_s.append(at_s)
            names -= {event.sequence_id for event in events if event.finish_reason is not None}
        timed = full_at_s[WARM_UP_STEPS : WARM_UP_STEPS + self._work.num_steps + 1]
        return [later - earlier for earlier, later in itertools.pairwise(timed)]

    def prefill(self, num_tokens: int) -> float:
        """Return the seconds from a prompt to its first token."""
        started_s = time.perf_counter()
        self._admit(num_tokens, 1)
        at_s, _ = self._steps.get(timeout=STEP_TIMEOUT_S)
        return at_s - started_s

    def _decode_row(self, batch: int, roof: Roofline) -> BenchRow:
        durations_s = self.decode(batch)
        timing = Timing(tuple(durations_s))
        context_tokens = self._work.num_prompt + self._work.num_steps // 2
        num_bytes, num_flops = decode_work(self._config, batch, context_tokens, self._has_q8_dense)
        share, bound = roofline_share(num_bytes, num_flops, timing.median_s, roof)
        facts = self._facts(batch=batch, tokens_per_s=round(batch / timing.median_s, 2), bytes=int(num_bytes))
        return BenchRow("decode", facts, timing, share, bound)

    def _prefill_row(self, num_tokens: int, roof: Roofline) -> BenchRow:
        durations_s = [self.prefill(num_tokens) for _ in range(self._work.num_repeats + 1)][1:]
        timing = Timing(tuple(durations_s))
        num_bytes, num_flops = prefill_work(self._config, num_tokens, self._has_q8_dense)
        share, bound = roofline_share(num_bytes, num_flops, timing.median_s, roof)
        facts = self._facts(prompt=num_tokens, tokens_per_s=round(num_tokens / timing.median_s, 2))
        return BenchRow("prefill", facts, timing, share, bound)

    @property
    def _has_q8_dense(self) -> bool:
        return self._work.sections.numerics.dense_weights == "q8_0"

    def _facts(self, **own: Value) -> dict[str, Value]:
        sections = self._work.sections
        return {
            "geometry": self._work.geometry,
            "layers": self._config.num_layers,
            "mode": sections.numerics.mode,
            "dense": sections.numerics.dense_weights,
            **own,
            "load_s": round(self.load_s, 2),
            "peak_gb": round(peak_bytes() / 1e9, 2),
        }

    def _admit(self, num_prompt: int, num_output: int) -> str:
        self._num_requests += 1
        name = f"bench-{self._num_requests}"
        prompt = tuple(self._random.integers(0, self._config.vocab_size, num_prompt).tolist())
        params = SamplingParams(
            max_tokens=num_output, seed=self._num_requests, temperature=self._work.temperature, ignore_eos=True
        )
        self._standalone.engine.admit(SequenceRequest(name, prompt, params))
        return name


def decode_work(
    config: ModelConfig, batch: int, context_tokens: int, has_q8_dense: bool = False
) -> tuple[float, float]:
    """Return the bytes that a decode step of `batch` sequences must read, and its operations.

    All but experts is bf16; with `has_q8_dense`, projections and head are in 8-bit blocks.
    Experts are chosen as if at random: of E experts, E (1 - (1 - k/E)^batch) are expected to be wanted.
    """
    wanted = config.num_experts * (1 - (1 - config.experts_per_token / config.num_experts) ** batch)
    parts = part_bytes(config)
    dense_bytes = parts.attention + parts.gate + parts.norms + parts.unembedding
    if has_q8_dense:
        dense_bytes -= _matrix_values(config) * (BF16_BYTES - BLOCK_BYTES / BLOCK_VALUES)
    keys = sum(
        min(context_tokens, config.sliding_window) if kind == "sliding" else context_tokens
        for kind in config.layer_types
    )
    kv_bytes = batch * keys * 2 * config.num_kv_heads * config.head_dim * _KV_BYTES_PER_VALUE
    head_flops = 2 * config.vocab_size * config.hidden_size
    flops = batch * (_row_flops(config) * config.num_layers + head_flops)
    return dense_bytes + parts.experts * wanted / config.num_experts + kv_bytes, flops


def prefill_work(config: ModelConfig, num_tokens: int, has_q8_dense: bool = False) -> tuple[float, float]:
    """Return the bytes and operations of a prompt's forward pass, the head for its last token only."""
    num_bytes, _ = decode_work(config, num_tokens, 0, has_q8_dense)
    pairs = sum(
        num_tokens * min(num_tokens / 2, config.sliding_window if kind == "sliding" else num_tokens)
        for kind in config.layer_types
    )
    attention_flops = 4 * pairs * config.num_heads * config.head_dim
    return num_bytes, num_tokens * _row_flops(config) * config.num_layers + attention_flops


def _matrix_values(config: ModelConfig) -> int:
    """Return the weights of attention's projections and of the head."""
    heads = config.num_heads * config.head_dim
    return config.hidden_size * (config.num_layers * (config.qkv_size + heads) + config.vocab_size)


def _layer_values(config: ModelConfig) -> int:
    """Return the dense weights of a layer."""
    heads = config.num_heads * config.head_dim
    return config.hidden_size * (config.qkv_size + heads + config.num_experts)


def _row_flops(config: ModelConfig) -> int:
    """Return the operations of a row in a layer, attention's own products left out."""
    experts = config.experts_per_token * 3 * config.hidden_size * config.intermediate_size
    return 2 * (_layer_values(config) + experts)
