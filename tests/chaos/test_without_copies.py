"""One copy of each expert, and its worker dies or hangs: the attention side computes in its place."""

from collections.abc import Generator

import pytest

from cluster.config import ExpertsSection
from tests.chaos.arena import Arena, arena
from tests.chaos.sabotage import Fault, Point

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
