"""Experts move between real processes while sequences run: tokens stay, nobody lacks anything, nothing is left over.

There is no fallback: a step that found no holder would wait until its deadline, and fail.
"""

import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from cluster.config import ExpertsSection
from cluster.experts.client import ExpertControl
from cluster.experts.placement import Placement
from cluster.experts.rebalance import BalanceLimits
from cluster.launched_moves import LaunchedMoves
from cluster.live_placement import shares_by_worker
from cluster.moves import DropExperts, LoadExperts, MovePolicy, Order
from tests.chaos.arena import Arena, arena
from tests.chaos.mixed_sequences import Outcome

pytestmark = pytest.mark.timeout(300)

BY_COMMAND = MovePolicy(1.0, BalanceLimits(max_loads_per_round=0))
BY_TRAFFIC = MovePolicy(0.2, BalanceLimits(max_imbalance=1.01, max_loads_per_round=8))
EXPERTS = ExpertsSection(
    num_workers=3, copies=1, num_spare_slots=1, fallback_bytes=0, reply_timeout_s=20.0, layer_timeout_s=60.0
)


def turned(placement: Placement) -> Placement:
    """Return the placement in which every worker has what another one had."""
    num_workers = len(placement.workers)
    turn = tuple(
        tuple(tuple((index + 1) % num_workers for index in indices) for indices in layer) for layer in placement.copies
    )
    return replace(placement, copies=turn)


@contextmanager
def beside(work: "threading.Thread", stop: threading.Event) -> Generator[None]:
    """Run `work` meanwhile, and see it end."""
    work.start()
    try:
        yield
    finally:
        stop.set()
        work.join(timeout=60.0)
    assert not work.is_alive()


def check_residents(running: Arena, moves: LaunchedMoves) -> None:
    """Every worker holds its share of the published placement, and no expert more."""
    shares = shares_by_worker(moves.live.placement)
    for member in running.cluster.membership.members:
        with ExpertControl(member.worker_id, member.address, running.cluster.secret) as control:
            status = control.status()
        assert {(each.layer, each.expert) for each in status.resident} == shares[member.index]
        assert status.weight_bytes > 0


def counted_by_workers(running: Arena) -> dict[str, int]:
    """Return how many pairs each worker says that it was sent."""
    counted: dict[str, int] = {}
    for member in running.cluster.membership.members:
        with ExpertControl(member.worker_id, member.address, running.cluster.secret) as control:
            counted[member.worker_id] = control.status().num_pairs
    return counted


@contextmanager
def nobody_lacks(running: Arena) -> Generator[None]:
    """Fail if a worker was asked for an expert that it did not have."""
    before = running.experts.counters.lacks
    yield
    num_lacks = running.experts.counters.lacks - before
    assert num_lacks == 0, f"{num_lacks} lacks"


@pytest.fixture(scope="module")
def undisturbed() -> Generator[tuple[Arena, Outcome]]:
    """Give a cluster with one copy of most experts, and what an undisturbed run gives."""
    with arena(EXPERTS) as running:
        yield running, running.run()


def test_everything_moves_again_and_again_under_running_sequences(undisturbed: tuple[Arena, Outcome]) -> None:
    running, expected = undisturbed
    moves, stop = running.cluster.moves(BY_COMMAND), threading.Event()
    epochs: list[int] = [running.experts.placement.epoch]

    def turn_on() -> None:
        while not stop.is_set():
            moves.live.propose(turned(moves.live.placement))
            moves.settle()
            epochs.append(running.experts.placement.epoch)

    with nobody_lacks(running), beside(threading.Thread(target=turn_on), stop):
        moved = running.run()
    assert moved.traces == expected.traces
    assert len(epochs) >= 3, "the sequences were over too soon"
    assert epochs == list(range(epochs[0], epochs[0] + len(epochs)))
    check_residents(running, moves)


def test_experts_follow_the_traffic(undisturbed: tuple[Arena, Outcome]) -> None:
    running, expected = undisturbed
    moves, stop = running.cluster.moves(BY_TRAFFIC), threading.Event()
    epoch = moves.live.placement.epoch

    def follow() -> None:
        while not stop.is_set():
            moves.step()

    with nobody_lacks(running):
        with beside(threading.Thread(target=follow), stop):
            moved = running.run()
        moves.settle()
    assert moved.traces == expected.traces
    assert moves.live.placement.epoch > epoch
    assert moves.live.num_loads > 0
    assert moves.live.imbalance is not None
    check_residents(running, moves)
    assert running.experts.traffic_report().pairs_by_worker == counted_by_workers(running)


@pytest.mark.parametrize("kind", [LoadExperts, DropExperts])
def test_a_worker_that_dies_in_the_middle_of_a_move_leaves_a_placement_that_serves(
    undisturbed: tuple[Arena, Outcome], kind: type[Order]
) -> None:
    running, expected = undisturbed
    moves, stop = running.cluster.moves(BY_COMMAND), threading.Event()
    moves.settle()
    first = moves.live.placement.copies
    killed: list[Order] = []

    def kill(order: Order) -> None:
        if isinstance(order, kind) and order.index == 1 and not killed:
            killed.append(order)
            running.cluster.kill("worker-1")

    def move_and_mend() -> None:
        moves.on_order = kill
        moves.live.propose(turned(moves.live.placement))
        while not killed:
            moves.step()
        while moves.step():
            pass
        running.cluster.restart("worker-1")

    with beside(threading.Thread(target=move_and_mend), stop):
        moved = running.run()
    moves.settle()
    running.mend()
    assert moved.traces == expected.traces
    is_published = moves.live.placement.copies != first
    assert is_published == (kind is DropExperts)
    check_residents(running, moves)


def test_dropping_what_is_in_use_is_noticed(undisturbed: tuple[Arena, Outcome]) -> None:
    """The negative control: without make before break a worker is asked for what it has forgotten."""
    running, expected = undisturbed
    placement = running.experts.placement
    elsewhere = [key for key in shares_by_worker(placement)[0] if len(placement.holders(*key)) > 1]
    member = running.cluster.members_by_index()[0]
    with ExpertControl(member.worker_id, member.address, running.cluster.secret) as control:
        control.drop(1, sorted(elsewhere))
    with pytest.raises(AssertionError, match="lacks"), nobody_lacks(running):
        assert running.run().traces == expected.traces
