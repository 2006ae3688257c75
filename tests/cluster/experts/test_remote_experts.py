"""The contract of `model.moe.Experts`, held by RemoteExperts over every transport, with hand-made experts."""

import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from cluster.errors import PlacementError, WorkerLost
from cluster.experts.dispatch_events import Tick
from cluster.experts.fallback_shard import FallbackShard
from cluster.experts.messages import ExpertRequest
from cluster.experts.placement import Placement
from cluster.experts.remote_experts import RemoteExperts
from cluster.experts.token_dispatcher import DispatchLimits, TokenDispatcher
from cluster.experts.transport import LocalTransport
from model.checkpoint.weights import ExpertWeights
from model.moe import GateOutput, HandExperts
from tests.cluster.experts.hand import HandShard, frame_format, hand_shards, names, no_weights, random_gate, until
from tests.cluster.experts.served import LIMITS, meshed, nothing_left
from tests.support.random_model import random_config

WIRE = frame_format()
TRANSPORTS = ("local", "grpc")


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    with nothing_left():
        yield


def uniform(num_workers: int, copies: int = 1, epoch: int = 0) -> Placement:
    return Placement.uniform(WIRE.num_layers, WIRE.num_experts, names(num_workers), copies, epoch)


def random_hidden(rng: np.random.Generator, num_tokens: int) -> Tensor:
    return torch.from_numpy(rng.normal(size=(num_tokens, WIRE.hidden_size)).astype(np.float32))


@pytest.mark.parametrize("kind", TRANSPORTS)
def test_outputs_are_those_worked_out_by_hand(kind: str) -> None:
    """Two rows, four experts each: expert e gives its row times e + 1, row k belongs to expert_ids[:, k]."""
    placement = uniform(2)
    gate = GateOutput(torch.tensor([[0, 1, 6, 7], [3, 0, 2, 1]]), torch.ones(2, 4))
    hidden = torch.tensor([[1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 30.0, 40.0]])
    with meshed(kind, placement, hand_shards(placement), WIRE) as mesh:
        outputs = mesh.experts.submit(1, hidden, gate).wait()
    assert outputs.tolist() == [
        [[1, 2, 3, 4], [2, 4, 6, 8], [7, 14, 21, 28], [8, 16, 24, 32]],
        [[40, 80, 120, 160], [10, 20, 30, 40], [30, 60, 90, 120], [20, 40, 60, 80]],
    ]


@pytest.mark.parametrize("kind", TRANSPORTS)
@pytest.mark.parametrize(("num_workers", "copies"), [(1, 1), (2, 1), (4, 2)])
def test_any_rows_over_any_workers_are_as_hand_experts_have_them(kind: str, num_workers: int, copies: int) -> None:
    rng = np.random.default_rng(num_workers)
    placement = uniform(num_workers, copies)
    with meshed(kind, placement, hand_shards(placement), WIRE) as mesh:
        for layer, num_tokens in enumerate((1, 7, 33)):
            gate, hidden = random_gate(rng, num_tokens, WIRE.num_experts), random_hidden(rng, num_tokens)
            pending = mesh.experts.submit(layer, hidden, gate)
            expected = HandExperts().submit(layer, hidden, gate).wait()
            assert torch.equal(pending.wait(), expected)
            assert pending.wait() is pending.wait()


@pytest.mark.parametrize("kind", TRANSPORTS)
def test_no_rows_give_no_outputs(kind: str) -> None:
    placement = uniform(2)
    with meshed(kind, placement, hand_shards(placement), WIRE) as mesh:
        nothing = GateOutput(torch.zeros(0, 4, dtype=torch.int64), torch.zeros(0, 4))
        assert mesh.experts.submit(0, torch.zeros(0, WIRE.hidden_size), nothing).wait().shape == (0, 4, 4)


@pytest.mark.parametrize("kind", TRANSPORTS)
def test_two_micro_batches_are_under_way_at_once(kind: str) -> None:
    rng = np.random.default_rng(5)
    placement = uniform(2)
    with meshed(kind, placement, hand_shards(placement), WIRE) as mesh:
        for layer in range(WIRE.num_layers):
            gates = [random_gate(rng, 3, WIRE.num_experts) for _ in range(2)]
            hidden = [random_hidden(rng, 3) for _ in range(2)]
            pendings = [mesh.experts.submit(layer, hidden[m], gates[m], micro_batch=m) for m in range(2)]
            for m in (1, 0):
                assert torch.equal(pendings[m].wait(), HandExperts().submit(layer, hidden[m], gates[m]).wait())


@pytest.mark.parametrize("kind", TRANSPORTS)
def test_a_lost_worker_is_replaced_by_another_copy_with_the_same_outputs(kind: str) -> None:
    rng = np.random.default_rng(3)
    placement = uniform(3, copies=2)
    gate, hidden = random_gate(rng, 16, WIRE.num_experts), random_hidden(rng, 16)
    with meshed(kind, placement, hand_shards(placement), WIRE) as mesh:
        before = mesh.experts.submit(0, hidden, gate).wait()
        mesh.lose("worker-1")
        for layer in range(WIRE.num_layers):
            assert torch.equal(mesh.experts.submit(layer, hidden, gate).wait(), before)
        assert "worker-1" not in mesh.experts.open_workers


@pytest.mark.parametrize("kind", TRANSPORTS)
def test_a_worker_that_lacks_its_experts_is_asked_once_for_each_and_the_other_answers(kind: str) -> None:
    placement = uniform(2, copies=2)
    shards = hand_shards(placement)
    shards["worker-0"].held.clear()
    rng = np.random.default_rng(4)
    gate, hidden = random_gate(rng, 5, WIRE.num_experts), random_hidden(rng, 5)
    with meshed(kind, placement, shards, WIRE) as mesh:
        for _ in range(3):
            outputs = mesh.experts.submit(0, hidden, gate).wait()
            assert torch.equal(outputs, HandExperts().submit(0, hidden, gate).wait())
        assert 1 <= mesh.experts.counters.lacks <= WIRE.num_experts


@pytest.mark.parametrize("kind", TRANSPORTS)
def test_a_stale_placement_is_refreshed_and_the_rows_follow_the_experts(kind: str) -> None:
    """The dispatcher believes in epoch 0; all experts have moved to the other worker at epoch 1."""
    old = uniform(2)
    new = replace(old, epoch=1, copies=tuple(tuple((1 - i,) for (i,) in layer) for layer in old.copies))
    gate, hidden = random_gate(np.random.default_rng(6), 4, WIRE.num_experts), torch.ones(4, WIRE.hidden_size)
    asked: list[int] = []
    with meshed(kind, old, hand_shards(new), WIRE) as mesh:

        def refresh(epoch: int) -> None:
            asked.append(epoch)
            mesh.experts.publish(new)

        mesh.experts.on_refresh = refresh
        outputs = mesh.experts.submit(2, hidden, gate).wait()
        assert torch.equal(outputs, HandExperts().submit(2, hidden, gate).wait())
        assert mesh.experts.epoch_in_use == 1
    assert asked == [0]


@pytest.mark.parametrize("kind", TRANSPORTS)
def test_without_any_copy_the_layer_fails_at_its_deadline_and_the_next_one_can_succeed(kind: str) -> None:
    placement = uniform(2)
    gate, hidden = random_gate(np.random.default_rng(6), 4, WIRE.num_experts), torch.ones(4, WIRE.hidden_size)
    with meshed(kind, placement, hand_shards(placement), WIRE, DispatchLimits(0.2, 0.6, 0.1)) as mesh:
        mesh.shards["worker-0"].held.clear()
        with pytest.raises(WorkerLost, match=r"worker-0: lacks experts"):
            mesh.experts.submit(0, hidden, gate).wait()
        mesh.shards["worker-0"].held |= placement.experts_on("worker-0")
        mesh.experts.publish(placement)
        assert torch.equal(mesh.experts.submit(0, hidden, gate).wait(), HandExperts().submit(0, hidden, gate).wait())


@pytest.mark.parametrize("kind", TRANSPORTS)
def test_a_failing_device_is_told_in_the_error(kind: str) -> None:
    placement = uniform(1)
    shards = hand_shards(placement)
    shards["worker-0"].failure = "the device is out of memory"
    gate, hidden = random_gate(np.random.default_rng(6), 4, WIRE.num_experts), torch.ones(4, WIRE.hidden_size)
    with (
        meshed(kind, placement, shards, WIRE, DispatchLimits(0.2, 0.4, 0.1)) as mesh,
        pytest.raises(WorkerLost, match="the device is out of memory"),
    ):
        mesh.experts.submit(0, hidden, gate).wait()


def test_what_does_not_fit_the_model_is_refused_before_it_is_sent() -> None:
    placement = uniform(1)
    gate = random_gate(np.random.default_rng(7), 2, WIRE.num_experts)
    with meshed("local", placement, hand_shards(placement), WIRE) as mesh:
        submit = mesh.experts.submit
        with pytest.raises(ValueError, match="layer 3 of 3"):
            submit(3, torch.zeros(2, 4), gate)
        with pytest.raises(ValueError, match=r"rows \(2, 5\) torch.float32, expected \[T, 4\]"):
            submit(0, torch.zeros(2, 5), gate)
        with pytest.raises(ValueError, match="expected"):
            submit(0, torch.zeros(2, 4).bfloat16(), gate)
        with pytest.raises(ValueError, match="4097 rows in a step, at most 4096"):
            submit(0, torch.zeros(4097, 4), gate)
        with pytest.raises(PlacementError, match=r"a placement of 1 × 8, not \(3, 8\)"):
            mesh.experts.publish(Placement.uniform(1, 8, names(1)))


def test_connecting_can_do_without_a_worker_only_if_others_hold_its_experts() -> None:
    for copies, is_enough in ((2, True), (1, False)):
        placement = uniform(2, copies)
        shards = hand_shards(placement)
        del shards["worker-1"]
        dispatcher = TokenDispatcher(placement, 1, WIRE.output_dtype, LIMITS)
        experts = RemoteExperts(dispatcher, LocalTransport(shards), WIRE)
        experts.wait_until_connected(5.0, ["worker-0"])
        if is_enough:
            experts.wait_until_connected(0.05)
        else:
            with pytest.raises(WorkerLost, match=r"no connection to worker-1 after 0.05 s"):
                experts.wait_until_connected(0.05)
        experts.close()


def test_steps_are_numbered_by_layers_that_begin_anew() -> None:
    placement = uniform(1)
    with meshed("local", placement, hand_shards(placement), WIRE) as mesh:
        steps = [
            mesh.experts._step(layer, micro_batch) for layer, micro_batch in [(0, 0), (0, 1), (2, 0), (0, 0), (1, 1)]
        ]
    assert steps == [0, 0, 0, 1, 0]


def test_results_that_nobody_waits_for_are_not_kept() -> None:
    placement = uniform(2)
    gate, hidden = random_gate(np.random.default_rng(7), 2, WIRE.num_experts), torch.randn(2, WIRE.hidden_size)
    with meshed("grpc", placement, hand_shards(placement), WIRE) as mesh:
        for _ in range(5):
            mesh.experts.submit(0, hidden, gate)
        until(lambda: len(mesh.experts._results) == 1)
        mesh.experts.submit(1, hidden, gate).wait()
        assert mesh.experts._results == {}


class HandSource:
    """A checkpoint whose experts need no weights."""

    config = random_config(num_layers=3, num_experts=8)

    def expert(self, layer: int, expert: int) -> ExpertWeights:
        return no_weights()

    def release(self) -> None:
        """Nothing was taken."""


def test_experts_without_a_worker_are_computed_here_until_one_is_back() -> None:
    placement = uniform(2)
    shards = hand_shards(placement)
    fallback = FallbackShard(HandShard(), HandSource(), max_bytes=1000)  # pyright: ignore[reportArgumentType]
    dispatcher = TokenDispatcher(placement, 1, WIRE.output_dtype, LIMITS, has_fallback=True)
    transport = LocalTransport(shards)
    experts = RemoteExperts(dispatcher, transport, WIRE, fallback=fallback)
    gate, hidden = random_gate(np.random.default_rng(8), 9, WIRE.num_experts), torch.ones(9, WIRE.hidden_size)
    expected = HandExperts().submit(1, hidden, gate).wait()
    transport.take_away("worker-0")
    for _ in range(3):
        assert torch.equal(experts.submit(1, hidden, gate).wait(), expected)
    assert (experts.counters.fallbacks, fallback.num_resident) == (3, 4)
    transport.bring_back("worker-0", shards["worker-0"])
    assert torch.equal(experts.submit(1, hidden, gate).wait(), expected)
    assert (experts.counters.fallbacks, fallback.num_resident) == (3, 0)
    experts.close()


def test_who_holds_everything_stands_in_for_workers_as_long_as_it_does() -> None:
    placement = uniform(2)
    shards = hand_shards(placement)
    everything = HandShard(set().union(*(shard.held for shard in shards.values())))
    dispatcher, transport = TokenDispatcher(placement, 1, WIRE.output_dtype, LIMITS), LocalTransport(shards)
    experts = RemoteExperts(dispatcher, transport, WIRE)
    gate, hidden = random_gate(np.random.default_rng(8), 9, WIRE.num_experts), torch.ones(9, WIRE.hidden_size)
    expected = HandExperts().submit(1, hidden, gate).wait()
    transport.take_away("worker-0")
    waiting = experts.submit(1, hidden, gate)
    experts.stand_in(everything)
    assert torch.equal(waiting.wait(), expected), "what waits for a worker is computed as soon as somebody stands in"
    assert torch.equal(experts.submit(1, hidden, gate).wait(), expected)
    assert everything.num_calls == experts.counters.fallbacks == 2
    late = experts.submit(1, hidden, gate)
    experts.stand_in(None)
    transport.bring_back("worker-0", shards["worker-0"])
    assert torch.equal(late.wait(), expected), "what it has not begun yet is asked of the worker that is back"
    assert everything.num_calls == 2
    experts.close()


class SlowTransport(LocalTransport):
    """Workers that answer when they are told to."""

    held: list[tuple[str, ExpertRequest]]

    def send(self, worker: str, request: ExpertRequest) -> None:
        self.held.append((worker, request))

    def answer_all(self) -> None:
        held, self.held = self.held, []
        for worker, request in held:
            super().send(worker, request)


def test_what_a_late_worker_has_answered_after_all_is_not_computed_here_too() -> None:
    placement = uniform(1)
    transport, mine = SlowTransport(hand_shards(placement)), HandShard()
    transport.held = []
    fallback = FallbackShard(mine, HandSource(), max_bytes=1000)  # pyright: ignore[reportArgumentType]
    limits = DispatchLimits(reply_timeout_s=0.05, layer_timeout_s=60.0)
    dispatcher = TokenDispatcher(placement, 1, WIRE.output_dtype, limits, has_fallback=True)
    experts = RemoteExperts(dispatcher, transport, WIRE, fallback=fallback)
    gate, hidden = random_gate(np.random.default_rng(8), 2, WIRE.num_experts), torch.ones(2, WIRE.hidden_size)
    expected = HandExperts().submit(0, hidden, gate).wait()
    pending = experts.submit(0, hidden, gate)
    time.sleep(0.06)
    experts._on_event(Tick())  # it is late: this process is asked too, and has not begun
    assert experts.counters.fallbacks == 1
    transport.answer_all()
    assert torch.equal(pending.wait(), expected)
    pending = experts.submit(1, hidden, gate)
    threading.Timer(0.02, transport.answer_all).start()
    assert torch.equal(pending.wait(), expected)
    assert mine.num_calls == 0
    experts.close()
