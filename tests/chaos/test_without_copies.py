"""One copy of each expert, and its worker dies: the attention side computes, or the step waits for a new worker."""

import threading
import time
from collections.abc import Generator

import pytest

from cluster.config import ExpertsSection
from tests.chaos.arena import Arena, arena
from tests.chaos.sabotage import Fault, Point
from tests.cluster.experts.hand import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

KILL = Fault(60, Point.IN_FLIGHT, is_kill=True)
HANG = Fault(60, Point.IN_FLIGHT, is_kill=False, hang_sends=30)


@pytest.fixture(scope="module")
def with_fallback() -> Generator[Arena]:
    with arena(ExpertsSection(num_workers=2, copies=1)) as running:
        yield running


@pytest.mark.parametrize("fault", [KILL, HANG], ids=["killed", "hung"])
def test_the_attention_side_computes_what_no_worker_can_and_forgets_it_afterwards(
    with_fallback: Arena, fault: Fault
) -> None:
    arena, shard = with_fallback, with_fallback.experts._fallback
    assert shard is not None
    expected = arena.run().traces
    before = arena.experts.counters.fallbacks
    assert arena.run((fault,)).traces == expected
    assert arena.experts.counters.fallbacks > before
    assert shard.num_resident > 0 or not fault.is_kill  # who hung came back within the run
    arena.mend()
    assert arena.run().traces == expected
    assert shard.num_resident == 0


def test_where_it_may_not_the_step_waits_for_the_worker_that_is_made_anew() -> None:
    """Both workers are killed, the second while the first is away; the new ones answer, and no step has failed."""
    with arena(ExpertsSection(num_workers=2, copies=1, fallback_bytes=0)) as running:
        expected = running.run().traces
        waited_s: list[float] = []

        def make_anew() -> None:
            until(lambda: running.saboteur.struck, timeout_s=60.0)
            started_s = time.monotonic()
            for worker in running.workers:
                running.cluster.kill(worker)
            running.cluster.restart(*running.workers)
            waited_s.append(time.monotonic() - started_s)

        maker = threading.Thread(target=make_anew)
        maker.start()
        outcome = running.run((KILL,))
        maker.join()
        assert outcome.traces == expected
        assert outcome.largest_gap_s > waited_s[0] > 0.0, "the step did not wait"
        assert running.experts.counters.fallbacks == 0
