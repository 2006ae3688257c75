"""The tiny model's experts in 1, 2 and 4 other processes: token ids and logit digests are those of one process."""

import queue

import pytest

from cluster.cluster_spec import ClusterSpec
from cluster.config import AttentionSection, EngineSection, ExpertsSection, ModelSection, NumericsSection
from cluster.engine.engine_thread import EngineThread
from cluster.engine.sequence import SequenceRequest, TokenEvent
from cluster.launch import LaunchedCluster
from cluster.standalone import Standalone, StandaloneSections
from model.sampling_params import SamplingParams

WAIT_S = 120.0
MODEL, NUMERICS, ATTENTION = ModelSection(max_context_tokens=512), NumericsSection(), AttentionSection()
ENGINE = EngineSection(logit_digests=True, max_step_tokens=48, max_running_sequences=4, kv_cache_bytes=1 << 24)
Trace = list[tuple[int, str]]
"""Token ids with the digest of the logits that each was drawn from."""


def requests() -> list[SequenceRequest]:
    """Six prompts, more than run together and longer than a step, at temperature 1.5."""
    lengths = (3, 60, 17, 130, 1, 40)
    return [
        SequenceRequest(
            f"s{number}",
            tuple((number * 977 + place * 131) % 200_000 for place in range(length)),
            SamplingParams(max_tokens=12, seed=number, temperature=1.5, ignore_eos=True),
        )
        for number, length in enumerate(lengths)
    ]


def traces(engine: EngineThread) -> dict[str, Trace]:
    """Run all requests at once and return what each gave."""
    steps: queue.SimpleQueue[list[TokenEvent]] = queue.SimpleQueue()
    engine.on_step = steps.put
    found: dict[str, Trace] = {request.sequence_id: [] for request in requests()}
    for request in requests():
        engine.admit(request)
    num_open = len(found)
    while num_open:
        for event in steps.get(timeout=WAIT_S):
            assert event.error is None, event
            found[event.sequence_id] += zip(event.token_ids, event.digests, strict=True)
            num_open -= event.finish_reason is not None
    engine.check_integrity()
    return found


@pytest.fixture(scope="module")
def expected() -> dict[str, Trace]:
    """Return what one process gives."""
    with Standalone.load(StandaloneSections(MODEL, NUMERICS, ENGINE, ATTENTION)) as standalone:
        return traces(standalone.engine)


@pytest.mark.parametrize(("num_workers", "copies"), [(1, 1), (2, 1), (4, 2)])
def test_workers_give_the_bits_of_one_process(num_workers: int, copies: int, expected: dict[str, Trace]) -> None:
    experts = ExpertsSection(num_workers=num_workers, copies=copies)
    spec = ClusterSpec("same-bits", MODEL, NUMERICS, ENGINE, experts, ATTENTION)
    with LaunchedCluster(spec) as cluster:
        side = cluster.attention_side()
        assert traces(side.engine) == expected
        assert all(len(trace) == 12 for trace in expected.values())
