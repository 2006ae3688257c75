"""Standalone: a model with all its experts and an engine in this one process. Neither Ray nor gRPC.

with Standalone.load(sections, print_progress) as standalone:
    for event in standalone.generate(request, timeout_s=60.0):
        ...
"""

import queue
import threading
import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from cluster.engine.build import build_engine
from cluster.engine.engine_thread import EngineThread, OnStep
from cluster.engine.sequence import SequenceRequest, TokenEvent
from cluster.model_source import check_context, open_model
from cluster.shard_loading import load_shard
from model.checkpoint.weights import WeightSource
from model.config import ModelConfig
from model.fingerprint import numerics_fingerprint
from model.kernels.threads import use_threads
from model.load import DenseOptions, Report, all_experts, load_transformer, no_report
from model.numerics import Numerics

if TYPE_CHECKING:
    from cluster.config import AttentionSection, EngineSection, ModelSection, NumericsSection


@dataclass(frozen=True, slots=True)
class StandaloneSections:
    """The config sections that a process of its own needs."""

    model: "ModelSection"
    numerics: "NumericsSection"
    engine: "EngineSection"
    attention: "AttentionSection"
    """Its device and threads are those of the experts too."""


class Standalone:
    """A running model in this process. A context manager: leaving it ends the engine."""

    def __init__(self, config: ModelConfig, engine: EngineThread, fingerprint: str) -> None:
        """Take over `engine`, which has not been started; `start` does."""
        self.config = config
        self.engine = engine
        self.fingerprint = fingerprint
        self._on_step: OnStep | None = None
        self._lock = threading.Lock()
        self._readers: dict[str, queue.SimpleQueue[TokenEvent]] = {}
        engine.on_step = self._tell

    @classmethod
    def load(cls, sections: StandaloneSections, report: Report = no_report) -> "Standalone":
        """Return the model that the sections name, loaded, its engine not started yet.

        Raises CheckpointError naming file and tensor, or ValueError naming a field of the sections.
        """
        use_threads(sections.attention.num_threads)
        return cls.of(open_model(sections.model.path), sections, report)

    @classmethod
    def of(cls, weights: WeightSource, sections: StandaloneSections, report: Report = no_report) -> "Standalone":
        """Return the same for weights that are at hand; raises as `load` does."""
        section, device = sections.numerics, sections.attention.device
        numerics = Numerics.of(section.mode, section.kv_cache_dtype, section.dense_weights)
        max_context = sections.model.max_context_tokens
        check_context(weights.config, max_context)
        dtype = torch.float32 if section.dense_weights == "float32" else torch.bfloat16
        transformer = load_transformer(weights, numerics, DenseOptions(device, dtype, max_context), report)
        loaded = load_shard(weights, (sections.model, sections.numerics), device, all_experts(weights), report)
        engine = build_engine(transformer, loaded.shard, sections.engine, max_context)
        return cls(weights.config, engine, numerics_fingerprint(device, numerics))

    def start(self, on_step: OnStep | None = None) -> None:
        """Begin to serve; `on_step` gets the events of every sequence that `generate` does not read."""
        self._on_step = on_step
        self.engine.start()

    def stop(self, timeout_s: float = 30.0) -> None:
        """End every sequence and the engine; raises EngineStopped if a step outlasts that."""
        self.engine.stop(timeout_s)

    def __enter__(self) -> "Standalone":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def generate(self, request: SequenceRequest, timeout_s: float) -> Generator[TokenEvent]:
        """Yield the events of a sequence until its end; closing the generator aborts it.

        Raises what `EngineThread.admit` raises, and TimeoutError when `timeout_s` pass before the end.
        """
        reader: queue.SimpleQueue[TokenEvent] = queue.SimpleQueue()
        deadline_s = time.monotonic() + timeout_s
        with self._lock:
            self._readers[request.sequence_id] = reader
        try:
            self.engine.admit(request)
            is_over = False
            while not is_over:
                event = _next_event(reader, deadline_s - time.monotonic(), request)
                is_over = event.finish_reason is not None
                yield event
        finally:
            self.engine.abort(request.sequence_id, request.attempt)
            with self._lock:
                del self._readers[request.sequence_id]

    def _tell(self, events: list[TokenEvent]) -> None:
        """Hand the events of a step to their readers, and the others to `on_step`."""
        with self._lock:
            readers = [self._readers.get(event.sequence_id) for event in events]
        unread: list[TokenEvent] = []
        for event, reader in zip(events, readers, strict=True):
            if reader is None:
                unread.append(event)
            else:
                reader.put(event)
        if unread and self._on_step is not None:
            self._on_step(unread)


def _next_event(reader: "queue.SimpleQueue[TokenEvent]", timeout_s: float, request: SequenceRequest) -> TokenEvent:
    try:
        return reader.get(timeout=max(0.0, timeout_s))
    except queue.Empty:
        raise TimeoutError(f"sequence {request.sequence_id} did not end in time") from None
