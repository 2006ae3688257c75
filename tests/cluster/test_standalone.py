"""The real model in one process: the same tokens and logits whatever else the engine does; neither Ray nor gRPC."""

import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.config import AttentionSection, EngineSection, ModelSection, NumericsSection
from cluster.engine.sequence import FinishReason, SequenceRequest, TokenEvent
from cluster.engine.stats import EngineStats
from cluster.errors import ContextOverflow
from cluster.standalone import Standalone, StandaloneSections
from model.checkpoint.random_weights import RandomWeights
from model.checkpoint.write import write_random_checkpoint
from model.errors import ConfigError
from model.kv_cache import KVCache
from model.load import LoadProgress
from model.numerics import Numerics
from model.sampling_params import SamplingParams
from tests.support.random_model import random_config

ROOT = Path(__file__).parents[2]
WAIT_S = 120.0
WINDOW = 24


def _sections(mode: str = "precise", path: str = "tiny", device: str = "cpu", **engine: Any) -> StandaloneSections:
    """Return sections; `mode` may name behind a slash how keys and values are kept."""
    name, _, kv_cache_dtype = mode.partition("/")
    settings: dict[str, Any] = {
        "kv_cache_bytes": 8_000_000,
        "logit_digests": True,
        "max_running_sequences": 8,
        **engine,
    }
    return StandaloneSections(
        ModelSection(path=path, max_context_tokens=512),
        NumericsSection.model_validate(
            {"mode": name, "dense_weights": "float32", "kv_cache_dtype": kv_cache_dtype or "auto"}
        ),
        EngineSection(**settings),
        AttentionSection.model_validate({"device": device}),
    )


def _weights() -> RandomWeights:
    return RandomWeights(random_config(sliding_window=WINDOW), seed=5)


def _requests(lengths: Sequence[int], max_tokens: int = 24) -> list[SequenceRequest]:
    """Prompts of these lengths; sampling at temperature 1.5, with filters and penalties here and there."""
    kinds: list[dict[str, Any]] = [{}, {"top_p": 0.95}, {"top_k": 40}, {"frequency_penalty": 0.5, "min_p": 0.01}]
    return [
        SequenceRequest(
            f"s{number}",
            tuple((number * 31 + position * 17) % 200 + 3 for position in range(length)),
            SamplingParams(
                max_tokens=max_tokens,
                seed=number,
                temperature=1.5,
                ignore_eos=True,
                num_logprobs=2,
                **kinds[number % 4],
            ),
        )
        for number, length in enumerate(lengths)
    ]


@dataclass
class Collector:
    """Takes the events of an engine's steps."""

    events: dict[str, list[TokenEvent]] = field(default_factory=lambda: defaultdict(list))
    news: threading.Condition = field(default_factory=threading.Condition)

    def on_step(self, events: list[TokenEvent]) -> None:
        """Take the events of one step."""
        with self.news:
            for event in events:
                self.events[event.sequence_id].append(event)
            self.news.notify_all()

    def wait_for(self, requests: Sequence[SequenceRequest]) -> None:
        """Wait until all of these have ended."""

        def is_over(request: SequenceRequest) -> bool:
            return any(event.finish_reason is not None for event in self.events[request.sequence_id])

        with self.news:
            assert self.news.wait_for(lambda: all(map(is_over, requests)), WAIT_S)

    def told(self) -> dict[str, list[Any]]:
        """Return what must be equal whatever else ran: tokens, digests of logits, logprobs, endings."""
        return {
            name: [(event.token_ids, event.digests, event.logprobs, event.finish_reason) for event in events]
            for name, events in self.events.items()
        }


def _run(standalone: Standalone, batches: Sequence[Sequence[SequenceRequest]]) -> tuple[Collector, EngineStats]:
    """Run batches one after the other, the sequences of a batch together; return what was told and what it took."""
    collector = Collector()
    standalone.start(collector.on_step)
    try:
        for batch in batches:
            for request in batch:
                standalone.engine.admit(request)
            collector.wait_for(batch)
            standalone.engine.check_integrity()
        stats = standalone.engine.stats()
    finally:
        standalone.stop()
    assert stats.num_used_blocks == (0, 0)
    return collector, stats


LENGTHS = (1, 5, 16, 33, 100, 129, 200)


@pytest.mark.parametrize("mode", ["float32", "precise", "int8", "bf16", "precise/int8"])
def test_tokens_and_logits_are_the_same_alone_together_in_chunks_and_preempted(mode: str) -> None:
    """Blocks hold 16 tokens; 22 of the full ones cannot hold 7 sequences of 25 to 224 tokens together."""
    weights, requests = _weights(), _requests(LENGTHS)
    alone, _ = _run(Standalone.of(weights, _sections(mode)), [[request] for request in requests])
    together, _ = _run(Standalone.of(weights, _sections(mode)), [requests])
    in_chunks, _ = _run(Standalone.of(weights, _sections(mode, max_step_tokens=11)), [list(reversed(requests))])
    scarce = Standalone.of(weights, _sections(mode, kv_cache_bytes=_bytes_for(mode, 22, 24)))
    preempted, stats = _run(scarce, [requests])
    assert stats.num_preemptions > 0
    assert [len(alone.events[request.sequence_id]) for request in requests] == [24] * len(requests)
    assert together.told() == alone.told()
    assert in_chunks.told() == alone.told()
    assert preempted.told() == alone.told()


def test_the_tiny_model_says_the_same_alone_together_and_in_chunks() -> None:
    """The full vocabulary, most of its logits exactly equal, and the trained weights."""
    sections = _sections(path="tiny", kv_cache_bytes=20_000_000)
    requests = _requests((3, 40, 150, 7), max_tokens=8)
    alone, _ = _run(Standalone.load(sections), [[request] for request in requests])
    together, _ = _run(Standalone.load(sections), [requests])
    in_chunks, _ = _run(Standalone.load(_sections(path="tiny", max_step_tokens=9)), [requests])
    assert together.told() == alone.told()
    assert in_chunks.told() == alone.told()
    assert len({digest for events in alone.events.values() for event in events for digest in event.digests}) == 32


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("mode", ["float32", "precise", "int8", "bf16", "bf16/int8"])
def test_on_a_gpu_too_tokens_and_logits_are_the_same_alone_together_and_in_chunks(mode: str) -> None:
    weights, requests = _weights(), _requests(LENGTHS)
    alone, _ = _run(Standalone.of(weights, _sections(mode, device="cuda")), [[request] for request in requests])
    together, _ = _run(Standalone.of(weights, _sections(mode, device="cuda")), [requests])
    in_chunks, _ = _run(Standalone.of(weights, _sections(mode, device="cuda", max_step_tokens=11)), [requests])
    assert together.told() == alone.told()
    assert in_chunks.told() == alone.told()


@pytest.mark.parametrize("mode", ["precise", "precise/int8"])
def test_what_is_found_in_the_cache_changes_no_bit(mode: str) -> None:
    """The same prompts again, and as the beginnings of longer ones, with every digest as if computed alone."""
    requests = _requests((40, 100, 129, 200))
    again = [replace(request, sequence_id=f"again-{request.sequence_id}") for request in requests]
    longer = [
        replace(request, sequence_id=f"longer-{request.sequence_id}", prompt_ids=(*request.prompt_ids, 7, 8, 9))
        for request in requests
    ]
    weights = _weights()
    cached, _ = _run(Standalone.of(weights, _sections(mode)), [requests, again, longer])
    alone, _ = _run(
        Standalone.of(weights, _sections(mode, prefix_cache=False)), [[request] for request in [*again, *longer]]
    )
    for request in (*again, *longer):
        found, computed = cached.events[request.sequence_id], alone.events[request.sequence_id]
        assert [event.digests for event in found] == [event.digests for event in computed]
        assert [event.token_ids for event in found] == [event.token_ids for event in computed]
        assert found[-1].num_cached >= (len(request.prompt_ids) - 4) // 16 * 16 - 16
        assert computed[-1].num_cached == 0


def test_stop_ids_beyond_the_vocabulary_do_no_harm() -> None:
    """gpt-oss's own stop ids, asked of a model of 211 words that must not stop at once."""
    plain, odd = (
        replace(request, params=replace(request.params, stop_token_ids=stops, min_tokens=8))
        for request, stops in zip(_requests((5, 5)), ((), (200_002, 200_012)), strict=True)
    )
    odd = replace(odd, params=replace(odd.params, seed=plain.params.seed, top_p=1.0), prompt_ids=plain.prompt_ids)
    told, _ = _run(Standalone.of(_weights(), _sections()), [[plain, odd]])
    first, second = (told.events[request.sequence_id] for request in (plain, odd))
    assert [event.digests for event in first] == [event.digests for event in second]
    assert [event.token_ids for event in first] == [event.token_ids for event in second]


def _bytes_for(mode: str, num_full: int, num_sliding: int) -> int:
    config, numerics = _weights().config, Numerics.of(*mode.split("/"))
    full, sliding = KVCache.bytes_per_block(config, 16, numerics.kv)
    assert full * num_full < sliding * num_sliding, "the sliding group gets at most half"
    return full * num_full + sliding * num_sliding


def test_a_resumed_sequence_goes_on_with_the_same_tokens_and_logits() -> None:
    weights, requests = _weights(), _requests((40, 41, 42, 43))
    whole, _ = _run(Standalone.of(weights, _sections()), [requests])
    resumed: list[SequenceRequest] = []
    for request, num_released in zip(requests, (1, 7, 16, 23), strict=True):
        tokens = [token for event in whole.events[request.sequence_id] for token in event.token_ids]
        prompt_ids = (*request.prompt_ids, *tokens[:num_released])
        resumed.append(replace(request, prompt_ids=prompt_ids, num_released=num_released, attempt=1))
    rest, _ = _run(Standalone.of(weights, _sections()), [resumed])
    for request in resumed:
        assert rest.told()[request.sequence_id] == whole.told()[request.sequence_id][request.num_released :]
        assert rest.events[request.sequence_id][0].index == request.num_released


def test_other_sequences_come_and_go_without_a_trace() -> None:
    """One sequence runs; 12 others join it one by one, and every second one is aborted on the way."""
    weights, (kept, *others) = _weights(), _requests((60, *range(3, 99, 8)), max_tokens=40)
    alone, _ = _run(Standalone.of(weights, _sections()), [[kept]])
    standalone, collector = Standalone.of(weights, _sections(max_step_tokens=32)), Collector()
    standalone.start(collector.on_step)
    try:
        standalone.engine.admit(kept)
        for number, other in enumerate(others):
            standalone.engine.admit(other)
            if number % 2:
                standalone.engine.abort(other.sequence_id)
        collector.wait_for([kept, *others])
        standalone.engine.check_integrity()
    finally:
        standalone.stop()
    assert collector.told()[kept.sequence_id] == alone.told()[kept.sequence_id]


def test_generate_yields_a_sequence_to_its_end_and_aborts_when_closed() -> None:
    first, second = _requests((5, 6))
    with Standalone.of(_weights(), _sections()) as standalone:
        events = list(standalone.generate(first, WAIT_S))
        assert [event.index for event in events] == list(range(24))
        assert events[-1].finish_reason is FinishReason.LENGTH
        stream = standalone.generate(replace(second, params=replace(second.params, max_tokens=400)), WAIT_S)
        next(stream)
        stream.close()
        assert list(standalone.generate(first, WAIT_S))[-1].finish_reason is FinishReason.LENGTH
        standalone.engine.check_integrity()
        assert standalone.engine.stats().num_used_blocks == (0, 0)


def test_generate_refuses_and_gives_up_in_time() -> None:
    (request,) = _requests((5,))
    with Standalone.of(_weights(), _sections()) as standalone:
        with pytest.raises(ContextOverflow):
            next(standalone.generate(replace(request, prompt_ids=(1,) * 512), WAIT_S))
        with pytest.raises(TimeoutError, match="s0 did not end in time"):
            list(standalone.generate(replace(request, params=replace(request.params, max_tokens=500)), 0.05))


def test_loading_tells_how_far_it_has_come() -> None:
    seen: list[LoadProgress] = []
    Standalone.of(_weights(), _sections(), seen.append)
    assert [progress.what for progress in seen if progress.done == progress.total] == ["dense weights", "experts"]
    assert seen[-1].total == 4 * 8


def test_limits_that_cannot_work_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="kv_cache_bytes is 1000"):
        Standalone.of(_weights(), _sections(kv_cache_bytes=1000))
    with pytest.raises(ValueError, match="max_step_tokens is 4"):
        Standalone.of(_weights(), _sections(max_step_tokens=4))
    sections = replace(_sections(), model=ModelSection(max_context_tokens=8193))
    with pytest.raises(ConfigError, match="max_context_tokens = 8193: more than the model's maximum of 8192"):
        Standalone.of(_weights(), sections)


PROGRAM = """
import sys
from cluster.config import AttentionSection, EngineSection, ModelSection, NumericsSection
from cluster.engine.sequence import SequenceRequest
from cluster.standalone import Standalone, StandaloneSections
from model.sampling_params import SamplingParams

sections = StandaloneSections(
    ModelSection(path=sys.argv[1]), NumericsSection(), EngineSection(kv_cache_bytes=8_000_000), AttentionSection()
)
request = SequenceRequest("a", (5, 6, 7), SamplingParams(max_tokens=4, seed=1, ignore_eos=True, stop=("zebra",)))
with Standalone.load(sections) as standalone:
    assert len(list(standalone.generate(request, 60.0))) == 4
found = sorted({"ray", "grpc", "fastapi", "starlette", "uvicorn", "openai_harmony", "transformers"} & set(sys.modules))
sys.exit(" ".join(found) or 0)
"""


def test_a_process_that_serves_a_checkpoint_imports_neither_ray_nor_grpc(tmp_path: Path) -> None:
    write_random_checkpoint(tmp_path / "model", _weights().config, seed=5)
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "model")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
