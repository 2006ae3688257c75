"""One copy of each expert, its worker dies, and the attention side may not compute: the step waits for a new one."""

import queue
import threading
import time
from collections.abc import Generator

import pytest

from cluster.config import ExpertsSection
from cluster.engine.sequence import TokenEvent
from tests.chaos.arena import Arena, arena
from tests.chaos.mixed_sequences import mixed_sequences
from tests.chaos.sabotage import Fault, Point
from tests.cluster.experts.hand import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

KILL = Fault(60, Point.IN_FLIGHT, is_kill=True)


@pytest.fixture(scope="module")
def without_fallback() -> Generator[Arena]:
    with arena(ExpertsSection(num_workers=2, copies=1, fallback_bytes=0)) as running:
        yield running


def test_the_step_waits_for_the_worker_that_is_made_anew(without_fallback: Arena) -> None:
    """Both workers are killed, the second while the first is away; the new ones answer, and no step has failed."""
    arena = without_fallback
    expected = arena.run().traces
    waited_s: list[float] = []

    def make_anew() -> None:
        until(lambda: arena.saboteur.struck, timeout_s=60.0)
        started_s = time.monotonic()
        for worker in arena.workers:
            arena.cluster.kill(worker)
        arena.cluster.restart(*arena.workers)
        waited_s.append(time.monotonic() - started_s)

    maker = threading.Thread(target=make_anew)
    maker.start()
    outcome = arena.run((KILL,))
    maker.join()
    assert outcome.traces == expected
    assert outcome.largest_gap_s > waited_s[0] > 0.0, "the step did not wait"
    assert arena.experts.counters.fallbacks == 0


def test_an_engine_that_is_stopped_while_a_step_waits_for_a_worker_ends_soon(without_fallback: Arena) -> None:
    """And so does every sequence, with an error event. Runs last: the engine is gone."""
    arena = without_fallback
    ended: queue.SimpleQueue[TokenEvent] = queue.SimpleQueue()

    def keep_ends(events: list[TokenEvent]) -> None:
        for event in events:
            if event.finish_reason:
                ended.put(event)

    arena.saboteur.arm(arena.cluster, (KILL,))
    arena.side.engine.on_step = keep_ends
    for request in mixed_sequences(num_tokens=100):
        arena.side.engine.admit(request)
    until(lambda: arena.saboteur.struck)
    arena.saboteur.disarm()
    started_s = time.monotonic()
    arena.side.close()
    assert time.monotonic() - started_s < 10.0
    events = [ended.get_nowait() for _ in range(ended.qsize())]
    assert len(events) == len(mixed_sequences())
    assert any(event.error for event in events)
