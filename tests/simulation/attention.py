"""An attention replica in simulated time: the real engine and dispatcher, and the paper model step by step."""

from collections.abc import Callable

import torch

from cluster.cluster_status import Membership
from cluster.engine.engine import Engine
from cluster.engine.limits import EngineLimits
from cluster.engine.sequence import FinishReason, SequenceRequest, TokenEvent
from cluster.engine.step import Abort, Admit, Emit, Event, Prepare, RunStep, StepDone, StepFailed
from cluster.experts import dispatch_events as dispatch
from cluster.experts.placement import Placement
from cluster.experts.token_dispatcher import DispatchLimits, TokenDispatcher
from tests.cluster.engine.hand_transformer import hand_cache
from tests.simulation.paper_model import LayerInput, StepPass, step_pass
from tests.simulation.workers import SimulatedTransport, WorkerProcess
from tests.simulation.world import World

WATCH_S = 0.2
STEP_S = 0.01

OnEvents = Callable[[list[TokenEvent]], None]


class AttentionProcess:
    """One life of a replica. `make_placement` and `find_workers` say what a membership means."""

    def __init__(
        self,
        world: World,
        limits: EngineLimits,
        membership: Membership,
        make_placement: Callable[[Membership], Placement],
        find_workers: Callable[[Membership], dict[str, WorkerProcess]],
    ) -> None:
        self._world = world
        self._make_placement, self._find_workers = make_placement, find_workers
        self.on_events: OnEvents = _drop
        self.engine = Engine(limits)
        self._kv_cache = hand_cache(limits.num_blocks.full, limits.num_blocks.sliding)
        placement = make_placement(membership)
        incarnation = world.chance.getrandbits(63)
        limit = DispatchLimits(reply_timeout_s=world.chance.choice([0.2, 1.0, 30.0]))
        self.dispatcher = TokenDispatcher(placement, incarnation, torch.float32, limit)
        self.transport = SimulatedTransport(world, self._from_workers)
        self.transport.set_workers(find_workers(membership))
        self.is_alive = True
        self._pass: StepPass | None = None
        self._num_layers_run = 0
        self._num_steps = 0
        self._tick_at_s: float | None = None

    @property
    def is_idle(self) -> bool:
        """Return whether no step is under way."""
        return self._pass is None

    def publish(self, membership: Membership) -> None:
        """Follow a membership."""
        if membership.epoch > self.dispatcher.placement.epoch:
            self.transport.set_workers(self._find_workers(membership))
            self._dispatch(dispatch.PlacementPublished(self._make_placement(membership)))

    def admit(self, request: SequenceRequest) -> None:
        """Take a sequence in."""
        self.engine.limits.check_request(request)
        self._run(Admit(request))

    def abort(self, sequence_id: str, attempt: int | None = None) -> None:
        """End a sequence."""
        self._run(Abort(sequence_id, attempt))

    def die(self) -> None:
        """End at once."""
        self._world.note("the attention replica dies")
        self.is_alive = False
        self.transport.close()

    def check_integrity(self) -> None:
        """Assert that the engine's books balance."""
        if self.is_alive:
            self.engine.check_integrity()

    def assert_empty(self) -> None:
        """Assert that nothing of any sequence is left."""
        stats = self.engine.stats(self._world.now_s())
        assert (stats.num_running, stats.num_waiting) == (0, 0)
        assert stats.num_free_blocks == stats.num_blocks, "blocks have leaked"

    def _run(self, event: Event) -> None:
        for action in self.engine.on(event, self._world.now_s()):
            match action:
                case Emit(events):
                    self.on_events(list(events))
                case RunStep(plan):
                    self._pass = step_pass(plan, self._kv_cache)
                    self._num_steps += 1
                    self._world.soon(STEP_S, lambda: self._go_on(None))
                case Prepare():
                    raise AssertionError("no simulated request has a constraint")

    def _go_on(self, outputs: torch.Tensor | None) -> None:
        """Run the step under way to its next layer of experts, or to its end."""
        if not self.is_alive or self._pass is None:
            return
        try:
            asked = next(self._pass) if outputs is None else self._pass.send(outputs)
        except StopIteration as end:
            self._pass = None
            self._run(StepDone(end.value))
            return
        self._submit(asked)

    def _submit(self, asked: LayerInput) -> None:
        self._num_layers_run += 1
        expert_ids = asked.gate.expert_ids.numpy()
        self._dispatch(dispatch.Submit(self._num_layers_run, self._num_steps, asked.layer, 0, asked.hidden, expert_ids))

    def _from_workers(self, event: dispatch.StreamEvent) -> None:
        if self.is_alive:
            self._dispatch(event)

    def _dispatch(self, event: dispatch.Event) -> None:
        for action in self.dispatcher.on(event, self._world.now_s()):
            match action:
                case dispatch.Send(worker, request):
                    self.transport.send(worker, request)
                case dispatch.Complete(_, outputs):
                    self._world.soon(STEP_S, lambda outputs=outputs: self._go_on(outputs))
                case dispatch.Fail(_, error):
                    self._pass = None
                    self._run(StepFailed(str(error), is_fatal=False, reason=FinishReason.UNAVAILABLE))
                case dispatch.RefreshPlacement():
                    pass  # the membership is watched anyway
        self._expect_tick()

    def _expect_tick(self) -> None:
        due_s = self.dispatcher.next_deadline_s()
        if due_s is None or (self._tick_at_s is not None and self._tick_at_s <= due_s):
            return
        self._tick_at_s = due_s
        self._world.later(max(0.0, due_s - self._world.now_s()), self._tick)

    def _tick(self) -> None:
        self._tick_at_s = None
        if self.is_alive:
            self._dispatch(dispatch.Tick())


def _drop(events: list[TokenEvent]) -> None:
    """Take events before any edge is connected."""
