"""The last holders of experts are killed and stay dead: the survivor loads those, while the step waits for them.

Attention may not compute in their place.
"""

import threading
from collections.abc import Generator
from dataclasses import replace

import pytest

from cluster.config import ExpertsSection
from cluster.experts.rebalance import BalanceLimits
from cluster.launched_moves import LaunchedMoves
from cluster.moves import MovePolicy
from tests.chaos.arena import Arena, arena
from tests.chaos.mixed_sequences import Outcome
from tests.chaos.sabotage import Fault, Point
from tests.chaos.test_live_moves import beside, check_residents, nobody_lacks

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

NO_RESCUE = MovePolicy(1.0, BalanceLimits(max_loads_per_round=0))
RESCUE = replace(NO_RESCUE, max_rescued_experts=10_000)
BOTH_HOLDERS = (Fault(60, Point.IN_FLIGHT, is_kill=True), Fault(61, Point.IN_FLIGHT, is_kill=True))


@pytest.fixture(scope="module")
def undisturbed() -> Generator[tuple[Arena, Outcome]]:
    """Give three workers with two copies of each expert, and what an undisturbed run gives."""
    with arena(ExpertsSection(num_workers=3, copies=2, fallback_bytes=0)) as running:
        yield running, running.run()


def run_beside(running: Arena, moves: LaunchedMoves) -> Outcome:
    """Run the sequences while two of three workers die and the moves are seen to."""
    stop = threading.Event()

    def see_to_moves() -> None:
        while not stop.is_set():
            moves.step()

    with beside(threading.Thread(target=see_to_moves), stop):
        return running.run(BOTH_HOLDERS)


def test_a_survivor_loads_the_experts_whose_only_holders_were_killed(undisturbed: tuple[Arena, Outcome]) -> None:
    running, expected = undisturbed
    moves = running.cluster.moves(RESCUE)
    moves.settle()
    first = moves.live.placement
    outcome = run_beside(running, moves)
    moves.settle()
    assert outcome.traces == expected.traces
    assert len(set(running.killed)) == 2
    num_lost = sum(len(holders) == 3 for layer in moves.live.placement.copies for holders in layer)
    assert moves.live.num_rescued == moves.live.num_loads == num_lost > 0
    assert running.experts.counters.fallbacks == 0
    check_residents(running, moves)
    with nobody_lacks(running):
        assert running.run().traces == expected.traces
    running.mend()
    moves.settle()
    assert moves.live.placement.copies == first.copies
    check_residents(running, moves)
    with nobody_lacks(running):
        assert running.run().traces == expected.traces


def test_without_the_rescue_the_step_fails_in_the_end(undisturbed: tuple[Arena, Outcome]) -> None:
    """The negative control. Runs last: no layer is waited for any longer than a second."""
    running, _ = undisturbed
    running.experts.hurry(1.0)
    with pytest.raises(AssertionError, match="answers missing"):
        run_beside(running, running.cluster.moves(NO_RESCUE))
