"""A whole cluster in simulated time: supervisor, workers, an attention replica, an edge; and what befalls them."""

from collections.abc import Callable
from typing import Any

import numpy as np

from cluster.cluster_spec import worker_id
from cluster.cluster_status import Membership
from cluster.engine.blocks import BlockCount
from cluster.engine.limits import EngineLimits
from cluster.engine.sequence import FinishReason, SequenceRequest
from cluster.experts.first_placement import Share, current_placement
from cluster.experts.traffic import TrafficReport
from cluster.live_placement import MIN_PAIRS
from cluster.stored_state import StoredState
from tests.cluster.engine.driver import hand_limits, request
from tests.simulation.attention import WATCH_S, AttentionProcess
from tests.simulation.edge import Edge, Received
from tests.simulation.paper_model import NUM_EXPERTS, NUM_LAYERS, tokens_on_paper
from tests.simulation.supervisors import RESTART_S, Store, SupervisorProcess
from tests.simulation.workers import WorkerProcess
from tests.simulation.world import World

MAX_CONTEXT = 48
MAX_WORKERS = 6
QUIET_S = 300.0
"""Longest time in which everything must be over once nothing strikes any more."""


class SimulatedCluster:
    """One seed's cluster and load. `run` plays it to its end and asserts what must hold."""

    def __init__(self, seed: int) -> None:
        self.world = World(seed)
        chance = self.world.chance
        self.share = Share(num_workers := chance.randint(1, 4), chance.randint(1, num_workers))
        self.limits = random_limits(self.world)
        self.store = Store(StoredState("secret"))
        self.attention: AttentionProcess | None = None
        self.supervisor = self._new_supervisor()
        self._restart_at_s = 0.0
        self._moves_experts = seed % 4 == 0
        requests = [random_request(self.world, f"s{number}") for number in range(chance.randint(1, 8))]
        self.edge = Edge(self.world, requests, self._find)
        self.world.checks.append(self._check)
        self._watch()

    def run(self) -> None:
        """Play the load and the faults, and see that every sequence got its tokens and nothing is left."""
        world = self.world
        world.run_until(lambda: self.attention is not None, QUIET_S)
        for one in self.edge.received.values():
            world.soon(3.0, lambda one=one: self.edge.ask(one))
            if world.chance.random() < 0.1:
                world.soon(6.0, lambda one=one: self.edge.cancel(one))
        for _ in range(world.chance.randint(0, 6)):
            world.soon(6.0, self._strike)
        if self._moves_experts and world.chance.random() < 0.5:
            for _ in range(world.chance.randint(1, 3)):
                world.soon(8.0, lambda: self.supervisor.scale(self._random_size()))
        world.run_until(self._is_over, QUIET_S)
        for one in self.edge.received.values():
            self._compare(one)
        assert self.attention is not None
        self.attention.assert_empty()

    def _is_over(self) -> bool:
        is_served = self.attention is not None and self.attention.is_idle and self.edge.is_done
        return is_served and self.supervisor.is_settled

    def _find(self) -> AttentionProcess | None:
        return self.attention if self.attention is not None and self.attention.is_alive else None

    def _watch(self) -> None:
        """Let attention learn of memberships, as long as a supervisor lives that has one; start it if it is down."""
        membership = self.supervisor.membership if self.supervisor.is_alive else None
        can_begin = membership is not None and (bool(membership.members) or membership.needs_no_worker)
        if membership is not None and can_begin and self._find() is None and self.world.now_s() >= self._restart_at_s:
            self.attention = AttentionProcess(self.world, self.limits, membership, self._placement, self._workers)
            self.edge.connect(self.attention)
        if membership is not None and self.attention is not None and self.attention.is_alive:
            self.attention.publish(membership)
        if self._moves_experts and membership is not None and self._find() is not None and self.attention is not None:
            pairs = np.full((NUM_LAYERS, NUM_EXPERTS), MIN_PAIRS)
            report = TrafficReport(pairs, self.attention.epoch_in_use, has_all=self.attention.has_all)
            self.supervisor.note_traffic(report)
        self.world.later(WATCH_S, self._watch)

    def _placement(self, membership: Membership) -> Any:
        return current_placement(self.share, membership.placement, (NUM_LAYERS, NUM_EXPERTS), membership.epoch)

    def _workers(self, membership: Membership) -> dict[str, WorkerProcess]:
        seats = [(member.index, member.incarnation) for member in membership.members]
        return {worker_id(seat[0]): self.store.workers[seat] for seat in seats}

    def _strike(self) -> None:
        """Let something befall the cluster."""
        chance = self.world.chance
        living = [process for process in self.store.workers.values() if process.is_alive]
        strikes: list[Callable[[], None]] = [self._kill_supervisor, self._kill_attention, self.edge.cut]
        for process in living:
            strikes += [process.die, process.die, lambda process=process: process.hang(chance.random() * 40.0)]
            strikes.append(lambda process=process: self._cut(process))
        chance.choice(strikes)()

    def _cut(self, process: WorkerProcess) -> None:
        if self.attention is not None:
            self.world.note(f"the stream to worker {process.seat} breaks")
            self.attention.transport.cut(worker_id(process.seat[0]))

    def _kill_attention(self) -> None:
        if self.attention is not None and self.attention.is_alive:
            self._restart_at_s = self.world.now_s() + self.world.chance.random() * RESTART_S
            self.attention.die()
            self.edge.died(self.attention)

    def _kill_supervisor(self) -> None:
        if self.supervisor.is_alive:
            self.supervisor.die()
            self.world.soon(RESTART_S, self._restart_supervisor)

    def _restart_supervisor(self) -> None:
        self.supervisor = self._new_supervisor()

    def _new_supervisor(self) -> SupervisorProcess:
        return SupervisorProcess(self.world, self.store, self.share, self._is_asked)

    def _is_asked(self, process: WorkerProcess) -> bool:
        """Say whether the attention replica goes by a placement that names the worker."""
        attention = self._find()
        return attention is not None and attention.asks(worker_id(process.seat[0]))

    def _random_size(self) -> int:
        """Return how many workers there might be, or none."""
        chance = self.world.chance
        return 0 if chance.random() < 0.4 else chance.randint(self.share.copies, MAX_WORKERS)

    def _check(self) -> None:
        if self.attention is not None:
            self.attention.check_integrity()

    def _compare(self, one: Received) -> None:
        expected = tokens_on_paper(one.request, MAX_CONTEXT)
        if one.was_cancelled and one.finish_reason is FinishReason.ABORT:
            expected = expected[: len(one.token_ids)]
        else:
            assert one.finish_reason in {FinishReason.STOP, FinishReason.LENGTH}, one
        assert one.token_ids == expected, one.request.sequence_id


def random_limits(world: World) -> EngineLimits:
    """Return limits under which sequences are chunked, wait and are preempted."""
    chance = world.chance
    max_running = chance.randint(1, 6)
    return hand_limits(
        num_blocks=BlockCount(chance.randint(14, 40), chance.randint(5, 30)),
        max_context_tokens=MAX_CONTEXT,
        max_running=max_running,
        max_step_tokens=chance.randint(max_running, 24),
    )


def random_request(world: World, name: str) -> SequenceRequest:
    """Return a request of random length and sampling."""
    chance = world.chance
    return request(
        name,
        [chance.randrange(96) for _ in range(chance.randint(1, 20))],
        seed=chance.randrange(1000),
        max_tokens=chance.randint(1, 25),
        temperature=chance.choice([0.0, 1.0, 5.0]),
        ignore_eos=chance.random() < 0.5,
        frequency_penalty=chance.choice([0.0, 0.0, 1.0]),
    )
