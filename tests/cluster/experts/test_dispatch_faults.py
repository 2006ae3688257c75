"""The dispatcher in a made-up world where streams break, answers are late, doubled and swapped, and experts go missing.

One seed is one world. Whatever happens in it, every layer is completed once, with the outputs worked out on paper.
"""

import functools
import heapq
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from cluster.experts.dispatch_events import (
    Answered,
    Complete,
    Event,
    Fail,
    PlacementPublished,
    RefreshPlacement,
    Send,
    StreamBroken,
    StreamOpened,
    Submit,
    Tick,
)
from cluster.experts.layer_work import LayerWork
from cluster.experts.messages import ByteRows, ExpertFailure, answer_request
from cluster.experts.placement import FALLBACK, IntArray, Placement
from cluster.experts.token_dispatcher import DispatchLimits, TokenDispatcher
from cluster.experts.wire import decode_answer, decode_request, encode_answer, encode_request
from model.moe import HandExperts
from tests.cluster.experts.hand import HandShard, frame_format, hand_shards, names, random_gate

WIRE = frame_format(num_layers=2, num_experts=8, hidden_size=3)
LIMITS = DispatchLimits(reply_timeout_s=0.5, layer_timeout_s=1000.0, refresh_interval_s=0.2)
SEEDS = range(40)
EVERYTHING = HandShard({(layer, expert) for layer in range(WIRE.num_layers) for expert in range(WIRE.num_experts)})


class World:
    """Workers, a supervisor and the network between them and one dispatcher, driven by a seed."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        num_workers = int(self.rng.integers(1, 5))
        copies = int(self.rng.integers(1, num_workers + 1))
        self.placement = Placement.uniform(WIRE.num_layers, WIRE.num_experts, names(num_workers), copies)
        self.shards = hand_shards(self.placement)
        self.machine = TokenDispatcher(self.placement, 1, torch.float32, LIMITS, has_fallback=seed % 2 == 1)
        self.now_s = 0.0
        self.outputs: dict[int, Tensor] = {}
        self._queue: list[tuple[float, int, Event]] = []
        self._num_events = 0
        self._faults_left = 40
        self._down: set[str] = set()
        for worker in self.placement.workers:
            self._later(StreamOpened(worker), 0.1)

    def run_layer(self, ticket: int) -> None:
        """Take one layer through, with faults on the way."""
        gate = random_gate(self.rng, int(self.rng.integers(1, 7)), WIRE.num_experts)
        hidden = torch.from_numpy(self.rng.normal(size=(gate.expert_ids.shape[0], 3)).astype(np.float32))
        layer = ticket % WIRE.num_layers
        self._happen(Submit(ticket, ticket // 2, layer, 0, hidden, gate.expert_ids.numpy()))
        while ticket not in self.outputs:
            self._maybe_fault()
            self._advance()
        assert torch.equal(self.outputs[ticket], HandExperts().submit(layer, hidden, gate).wait()), f"ticket {ticket}"

    def settle(self) -> None:
        """Let everything that is under way arrive."""
        while self._queue:
            self._advance()

    def _later(self, event: Event, longest_s: float) -> None:
        heapq.heappush(self._queue, (self.now_s + self.rng.random() * longest_s, self._num_events, event))
        self._num_events += 1

    def _advance(self) -> None:
        due_s = self.machine.next_deadline_s()
        if self._queue and (due_s is None or self._queue[0][0] <= due_s):
            self.now_s, _, event = heapq.heappop(self._queue)
            self._happen(event)
        else:
            assert due_s is not None, "the world stands still with a layer under way"
            self.now_s = max(self.now_s, due_s)
            self._happen(Tick())

    def _happen(self, event: Event) -> None:
        if isinstance(event, StreamOpened):
            self._down.discard(event.worker)
        for action in self.machine.on(event, self.now_s):
            match action:
                case Send(worker, request):
                    self._receive(worker, encode_request(request))
                case Complete(ticket, outputs):
                    assert ticket not in self.outputs, f"ticket {ticket} was completed twice"
                    self.outputs[ticket] = outputs.clone()
                case RefreshPlacement():
                    self._later(PlacementPublished(self._truth()), 0.3)
                case Fail():
                    raise AssertionError(f"{action} long before any deadline")

    def _receive(self, worker: str, frame: bytes) -> None:
        assert worker not in self._down, f"sent to {worker} although its stream is known to be broken"
        request = decode_request(frame, WIRE)
        shard = EVERYTHING if worker == FALLBACK else self.shards[worker]
        answer = answer_request(shard, request, self.placement.epoch)
        if self._is_struck(0.03):
            answer = ExpertFailure(request.key, 0, "a cosmic ray")
        delay_s = 2.0 if self._is_struck(0.1) else 0.1
        for _ in range(1 + self._is_struck(0.1)):
            self._later(Answered(worker, decode_answer(encode_answer(answer, WIRE), WIRE)), delay_s)

    def _maybe_fault(self) -> None:
        worker = str(self.rng.choice(list(self.shards)))
        if worker not in self._down and self._is_struck(0.15):
            self._down.add(worker)
            self._happen(StreamBroken(worker, "killed"))  # what it answered may still be under way
            self._later(StreamOpened(worker), 3.0)
        if self._is_struck(0.1):
            self._move_an_expert()

    def _move_an_expert(self) -> None:
        """Behind the dispatcher's back: it learns of it from the lack, or from the placement."""
        source, target = (str(self.rng.choice(list(self.shards))) for _ in range(2))
        key = (int(self.rng.integers(WIRE.num_layers)), int(self.rng.integers(WIRE.num_experts)))
        if source != target and self.shards[source].has(*key):
            self.shards[target].held.add(key)
            self.shards[source].held.discard(key)
            self.placement = replace(self._truth(), epoch=self.placement.epoch + 1)
            self._later(PlacementPublished(self.placement), 1.0)

    def _truth(self) -> Placement:
        """Return where the experts really are."""
        copies = tuple(
            tuple(
                tuple(i for i, shard in enumerate(self.shards.values()) if shard.has(layer, expert))
                for expert in range(WIRE.num_experts)
            )
            for layer in range(WIRE.num_layers)
        )
        return replace(self.placement, copies=copies)

    def _is_struck(self, chance: float) -> bool:
        is_struck = self._faults_left > 0 and self.rng.random() < chance
        self._faults_left -= is_struck
        return is_struck


@functools.cache
def lived(seed: int) -> World:
    """Return the world of `seed` after it has taken 12 layers through."""
    world = World(seed)
    for ticket in range(12):
        world.run_layer(ticket)
    world.settle()
    return world


@pytest.mark.parametrize("seed", SEEDS)
def test_every_layer_is_completed_once_with_the_right_outputs(seed: int) -> None:
    machine = lived(seed).machine
    assert len(lived(seed).outputs) == machine.counters.completed == 12
    assert (machine._works, machine._sent, machine._tickets) == ({}, {}, {})


def test_the_worlds_hold_every_kind_of_fault() -> None:
    counters = [lived(seed).machine.counters for seed in SEEDS]
    assert sum(each.lacks for each in counters) > 5
    assert sum(each.failures for each in counters) > 5
    assert sum(each.resends for each in counters) > 5
    assert sum(each.hedges for each in counters) > 5
    assert sum(each.hedge_wins for each in counters) > 5
    assert sum(each.fallbacks for each in counters) > 5
    assert sum(each.dropped["late or repeated"] for each in counters) > 5


def test_an_answer_written_where_it_arrives_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: outputs in order of arrival instead of by position."""

    def fill_by_arrival(work: LayerWork, positions: IntArray, outputs: ByteRows) -> int:
        first_free = np.flatnonzero(~work._is_filled)[: positions.shape[0]]
        work._output_bytes[first_free] = outputs[: first_free.shape[0]]
        work._is_filled[first_free] = True
        work._num_missing -= first_free.shape[0]
        return first_free.shape[0]

    monkeypatch.setattr(LayerWork, "fill", fill_by_arrival)
    caught = 0
    for seed in SEEDS:
        world = World(seed)
        try:
            for ticket in range(4):
                world.run_layer(ticket)
        except AssertionError:
            caught += 1
    assert caught > len(SEEDS) / 2
