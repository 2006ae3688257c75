"""A whole cluster in simulated time: supervisor, workers, an attention replica, an edge; and what befalls them."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from cluster.cluster_spec import worker_id
from cluster.cluster_status import Membership
from cluster.engine.blocks import BlockCount
from cluster.engine.engine import Engine
from cluster.engine.limits import EngineLimits
from cluster.engine.sequence import FinishReason, SequenceRequest
from cluster.experts.first_placement import Share, current_placement
from cluster.live_placement import LEASE_S
from cluster.stored_state import StoredState
from tests.cluster.engine.driver import hand_limits
from tests.simulation.attention import WATCH_S, AttentionProcess
from tests.simulation.edge import Edge, Received
from tests.simulation.load import MAX_CONTEXT, NewDrafter, expected, random_drafters, random_request
from tests.simulation.paper_model import NUM_EXPERTS, NUM_LAYERS
from tests.simulation.supervisors import RESTART_S, Store, SupervisorProcess
from tests.simulation.workers import WorkerProcess
from tests.simulation.world import World

MAX_WORKERS = 6
QUIET_S = 300.0
"""Longest time in which everything must be over once nothing strikes any more."""


class SimulatedCluster:
    """One seed's cluster and load. `run` plays it to its end and asserts what must hold."""

    def __init__(self, seed: int) -> None:
        self.world = World(seed)
        chance = self.world.chance
        self.share = Share(num_workers := chance.randint(1, 4), chance.randint(1, num_workers))
        requests = [random_request(self.world, f"s{number}") for number in range(chance.randint(1, 8))]
        self.limits = random_limits(self.world)
        self.limits, self._new_drafter = with_drafters(self.world, self.limits, requests)
        self.store = Store(StoredState("secret"), has_owner=chance.random() < 0.5)
        self.store.follows_traffic = chance.random() < 0.5
        self._obstacle = chance.choice(["", "", "", "there is no room"])
        self._heard_at_s = self._deaf_until_s = 0.0
        self.attention: AttentionProcess | None = None
        self.supervisor = self._new_supervisor()
        self._restart_at_s = 0.0
        self._moves_experts = seed % 4 == 0
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
        world.chance.choice([self._abandon, self._leave, self._undeploy])()
        world.run_until(lambda: self.store.has_exited, QUIET_S)
        assert not any(process.is_alive for process in self.store.workers.values()), "a worker is left"

    def _abandon(self) -> None:
        self.world.note("nothing is wanted any more")
        self.store.has_owner = False
        self.supervisor.abandon()

    def _leave(self) -> None:
        """Let the owner fall silent; who has none is told to end."""
        if not self.store.has_owner:
            self._abandon()
        self.store.has_owner = False

    def _undeploy(self) -> None:
        self.world.note("the application is deleted")
        self.store.is_deployed = False

    def _is_over(self) -> bool:
        is_served = self.attention is not None and self.attention.is_idle and self.edge.is_done
        return is_served and self.supervisor.is_settled

    def _find(self) -> AttentionProcess | None:
        return self.attention if self.attention is not None and self.attention.is_alive else None

    def _watch(self) -> None:
        """Let attention learn of memberships, as long as a supervisor lives that has one; start it if it is down."""
        membership = self.supervisor.membership if self.supervisor.is_alive else None
        can_begin = membership is not None and (bool(membership.members) or membership.needs_no_worker)
        can_begin &= self.store.is_deployed and self.store.state.is_wanted
        if membership is not None and can_begin and self._find() is None and self.world.now_s() >= self._restart_at_s:
            self.attention = self._new_attention(membership)
            self.edge.connect(self.attention)
        attention, is_deaf = self._find(), self.world.now_s() < self._deaf_until_s
        if membership is not None and attention is not None and not is_deaf:
            self._heard_at_s = self.world.now_s()
            attention.publish(membership)
            if self._moves_experts:
                self.supervisor.note_traffic(attention.traffic_report())
        self.world.later(WATCH_S, self._watch)

    def _new_attention(self, membership: Membership) -> AttentionProcess:
        engine = Engine(self.limits, new_drafter=self._new_drafter)
        return AttentionProcess(self.world, engine, membership, self._placement, self._workers, self._obstacle)

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
        strikes += [self._end_attention, self.edge.move, self._part]
        strikes.append(lambda: self.supervisor.stand_still(chance.random() * 20.0))
        for process in living:
            strikes += [process.die, process.die, lambda process=process: process.hang(chance.random() * 40.0)]
            strikes.append(lambda process=process: self._cut(process))
            strikes.append(lambda process=process: process.fail(chance.random() * 5.0))
        chance.choice(strikes)()

    def _cut(self, process: WorkerProcess) -> None:
        if self.attention is not None:
            self.world.note(f"the stream to worker {process.seat} breaks")
            self.attention.transport.cut(worker_id(process.seat[0]))

    def _kill_attention(self) -> None:
        if (attention := self._find()) is not None:
            attention.die()
            self._attention_died(attention)

    def _end_attention(self) -> None:
        if (attention := self._find()) is not None:
            attention.end("it is to go", is_device_lost=self.world.chance.random() < 0.5)
            self._attention_died(attention)

    def _attention_died(self, attention: AttentionProcess) -> None:
        self._restart_at_s = self.world.now_s() + self.world.chance.random() * RESTART_S
        self.edge.died(attention)

    def _part(self) -> None:
        """Let the network between supervisor and attention fail, for longer than the supervisor waits at times."""
        seconds = self.world.chance.random() * 2 * LEASE_S
        self.world.note(f"supervisor and attention do not hear of each other for {seconds:.2f} s")
        self._deaf_until_s = self.world.now_s() + seconds

    def _kill_supervisor(self) -> None:
        if self.supervisor.is_alive:
            self.supervisor.die()
            self.world.soon(RESTART_S, self._restart_supervisor)

    def _restart_supervisor(self) -> None:
        self.supervisor = self._new_supervisor()

    def _new_supervisor(self) -> SupervisorProcess:
        return SupervisorProcess(self.world, self.store, self.share, self._is_asked)

    def _is_asked(self, process: WorkerProcess) -> bool:
        """Say whether the attention replica goes by a placement that names the worker; a silent one is not counted."""
        attention, silent_s = self._find(), self.world.now_s() - self._heard_at_s
        is_over = not (self.store.is_deployed and self.store.state.is_wanted)
        return (
            attention is not None and not is_over and silent_s < LEASE_S and attention.asks(worker_id(process.seat[0]))
        )

    def _random_size(self) -> int:
        """Return how many workers there might be, or none; at times too few for the copies."""
        chance = self.world.chance
        return 0 if chance.random() < 0.4 else chance.randint(1, MAX_WORKERS)

    def _check(self) -> None:
        if self.attention is not None:
            self.attention.check_integrity()

    def _compare(self, one: Received) -> None:
        whole = expected(one.request)
        if one.was_cancelled and one.finish_reason is FinishReason.ABORT:
            assert one.token_ids == whole.token_ids[: len(one.token_ids)], one.request.sequence_id
        else:
            assert (one.token_ids, one.finish_reason) == (whole.token_ids, whole.finish_reason), one.request.sequence_id


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


def with_drafters(
    world: World, limits: EngineLimits, requests: list[SequenceRequest]
) -> tuple[EngineLimits, NewDrafter]:
    """Return the limits with what engines may guess, and what makes a sequence's drafter."""
    speculation, new_drafter = random_drafters(world, requests)
    return replace(limits, speculation=speculation), new_drafter
