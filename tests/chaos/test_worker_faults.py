"""Expert workers killed and stopped under eighteen mixed sequences: nobody sees more than a pause.

Real processes, the tiny model, two copies of each expert on four workers, and the attention side's fallback. Token
ids, the digest of every step's logits and finish reasons are those of the undisturbed run.

Six rounds of four faults run by default. `EXPERTMESH_CHAOS_ROUNDS=80` makes it 80 rounds, 320 kill points; round n is
the same every time, and `EXPERTMESH_CHAOS_FIRST=n` begins with it.
"""

import dataclasses
import os
from collections.abc import Generator

import pytest

from cluster.config import ExpertsSection
from cluster.experts.dispatch_events import Action
from cluster.experts.token_dispatcher import TokenDispatcher
from tests.chaos.arena import Arena, arena
from tests.chaos.mixed_sequences import Outcome
from tests.chaos.sabotage import Fault, Point, random_faults

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

FIRST_ROUND = int(os.environ.get("EXPERTMESH_CHAOS_FIRST", "0"))
NUM_ROUNDS = int(os.environ.get("EXPERTMESH_CHAOS_ROUNDS", "6"))
EXPERTS = ExpertsSection(num_workers=4, copies=2)

PLANNED: tuple[tuple[Fault, ...], ...] = (
    # Every worker is killed, one after the other, each at another point of a request's way.
    (
        Fault(20, Point.BEFORE_SEND, is_kill=True),
        Fault(90, Point.IN_FLIGHT, is_kill=True),
        Fault(150, Point.BEFORE_COMBINE, is_kill=True),
        Fault(170, Point.IN_FLIGHT, is_kill=True),
    ),
    # Every worker hangs for a while; the second and third at once.
    (
        Fault(20, Point.IN_FLIGHT, is_kill=False),
        Fault(100, Point.BEFORE_SEND, is_kill=False),
        Fault(101, Point.BEFORE_SEND, is_kill=False),
        Fault(200, Point.BEFORE_COMBINE, is_kill=False),
    ),
    # A worker hangs, and the one that its rows are sent to instead is killed.
    (
        Fault(40, Point.IN_FLIGHT, is_kill=False),
        Fault(41, Point.IN_FLIGHT, is_kill=True),
        Fault(140, Point.BEFORE_SEND, is_kill=False, hang_sends=5),
        Fault(141, Point.BEFORE_COMBINE, is_kill=True),
    ),
)


RESCUES = {0: ("resends", "fallbacks"), 1: ("hedges", "hedge_wins"), 2: ("resends", "hedges")}
"""What the planned rounds cannot do without, by the name of its counter."""


def faults_of(round_number: int) -> tuple[Fault, ...]:
    """Return the planned faults of the first rounds, then random ones."""
    if round_number < len(PLANNED):
        return PLANNED[round_number]
    return random_faults(round_number, num_faults=4, num_sends=200)


@pytest.fixture(scope="module")
def mesh() -> Generator[Arena]:
    with arena(EXPERTS) as running:
        yield running


@pytest.fixture(scope="module")
def undisturbed(mesh: Arena) -> Outcome:
    outcome = mesh.run()
    assert mesh.saboteur.num_sends > 250, "the planned points lie beyond the run's end"
    assert {trace.finish_reason for trace in outcome.traces.values()} == {"length", "stop"}
    return outcome


@pytest.mark.parametrize("round_number", range(FIRST_ROUND, FIRST_ROUND + NUM_ROUNDS))
def test_no_token_changes_whoever_is_killed_or_hangs(mesh: Arena, undisturbed: Outcome, round_number: int) -> None:
    faults = faults_of(round_number)
    before = dataclasses.replace(mesh.experts.counters)
    outcome = mesh.run(faults)
    struck, counters = mesh.saboteur.struck, mesh.experts.counters
    mesh.mend()
    assert outcome.traces == undisturbed.traces, f"EXPERTMESH_CHAOS_FIRST={round_number}: {struck}"
    assert len(struck) == len(faults), f"not all came to pass: {struck}"
    for name in RESCUES.get(round_number, ()):
        assert getattr(counters, name) > getattr(before, name), f"no {name}"


def test_without_resends_the_suite_is_red(mesh: Arena, undisturbed: Outcome, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: what a lost worker owed is asked of nobody. Runs last: the engine loses sequences."""

    def give_up(self: TokenDispatcher, *unused: object) -> list[Action]:
        return []

    monkeypatch.setattr(TokenDispatcher, "_pass_on", give_up)
    mesh.experts.hurry(2.0)
    with pytest.raises(AssertionError, match="unavailable"):
        mesh.run((Fault(60, Point.IN_FLIGHT, is_kill=True),))
