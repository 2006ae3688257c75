"""The same sequences while all experts come beside attention and go to workers again, with real processes.

There is no fallback: a step that found no holder would wait until its deadline, and fail.
"""

import threading
from collections.abc import Generator
from dataclasses import replace

import pytest

from cluster.config import ExpertsSection
from cluster.experts.placement import Placement
from cluster.experts.traffic import TrafficReport
from tests.chaos.arena import Arena, arena, until
from tests.chaos.mixed_sequences import Outcome
from tests.chaos.test_live_moves import beside

pytestmark = pytest.mark.timeout(300)

EXPERTS = ExpertsSection(num_workers=2, copies=1, fallback_bytes=0, reply_timeout_s=20.0, layer_timeout_s=60.0)


class Switch:
    """Does by hand what a supervisor does when the number of workers goes to none and back."""

    def __init__(self, running: Arena) -> None:
        self._running = running
        self._expanded: Placement = running.experts.placement

    def report(self) -> TrafficReport:
        return self._running.side.traffic_report()

    def prepare(self) -> None:
        """Have attention load all experts beside the workers."""
        membership = self._running.cluster.membership
        self._running.side.publish(replace(membership, wants_local=True))
        until(lambda: self.report().has_all, timeout_s=60.0)

    def place(self, placement: Placement) -> None:
        """Publish a placement and wait until nobody goes by an older one."""
        epoch = self._running.cluster.publish_placement(placement)
        until(lambda: self.report().epoch == epoch, timeout_s=60.0)

    def collapse(self) -> None:
        self.prepare()
        expanded = self._expanded
        self.place(Placement.collapsed(expanded.num_layers, expanded.num_experts))
        assert self.report().has_all

    def expand(self) -> None:
        self.place(self._expanded)
        assert not self.report().has_all, "what is on workers is not kept here"


@pytest.fixture(scope="module")
def undisturbed() -> Generator[tuple[Arena, Outcome]]:
    with arena(EXPERTS) as running:
        yield running, running.run()


def test_all_come_here_and_go_again_under_running_sequences(undisturbed: tuple[Arena, Outcome]) -> None:
    running, expected = undisturbed
    switch, stop = Switch(running), threading.Event()
    times: list[int] = []

    def turn() -> None:
        while not stop.is_set():
            switch.collapse()
            switch.expand()
            times.append(len(times))

    with beside(threading.Thread(target=turn), stop):
        turned = running.run()
    assert turned.traces == expected.traces
    assert times, "the sequences were over too soon"
    assert running.experts.counters.lacks == 0


def test_experts_that_are_here_already_stand_in_for_workers_that_die(undisturbed: tuple[Arena, Outcome]) -> None:
    """Both workers die in the middle, before the placement without them is published."""
    running, expected = undisturbed
    switch = Switch(running)
    switch.prepare()
    for worker in running.workers:
        running.cluster.kill(worker)
    assert running.run().traces == expected.traces
    assert running.experts.counters.fallbacks > 0
    running.mend()
    assert not running.side.traffic_report().has_all, "all are there again"


def test_without_any_worker_everything_is_computed_here(undisturbed: tuple[Arena, Outcome]) -> None:
    running, expected = undisturbed
    Switch(running).collapse()
    for worker in running.workers:
        running.cluster.kill(worker)
    num_sends = running.experts.counters.sends
    assert running.run().traces == expected.traces
    assert running.experts.counters.sends == num_sends, "nobody is asked"
