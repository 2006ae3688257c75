"""An attention replica in simulated time: the real engine and dispatcher, and the paper model step by step."""

from collections.abc import Callable

import torch

from cluster.cluster_status import Membership
from cluster.engine.engine import Engine
from cluster.engine.sequence import FinishReason, SequenceRequest, TokenEvent
from cluster.engine.step import Abort, Admit, Emit, Event, Prepare, RunStep, StepDone, StepFailed, Stop
from cluster.experts import dispatch_events as dispatch
from cluster.experts.messages import ExpertRequest, answer_request
from cluster.experts.placement import FALLBACK, Placement
from cluster.experts.token_dispatcher import DispatchLimits, TokenDispatcher
from cluster.experts.traffic import ExpertTraffic, TrafficReport
from model.moe import HandExperts
from tests.cluster.engine.hand_transformer import hand_cache
from tests.cluster.experts.hand import HandShard
from tests.simulation.load import prepared
from tests.simulation.paper_model import NUM_EXPERTS, NUM_LAYERS, LayerInput, StepPass, step_pass
from tests.simulation.workers import SimulatedTransport, WorkerProcess
from tests.simulation.world import World

WATCH_S = 0.2
LOAD_ALL_S = 3.0
"""Longest time until all experts are here."""
STEP_S = 0.01
HURRY_S = 0.5
PAIRS_PER_PAIR = 1000
PREPARE_S = 0.2
"""Longest time until a constraint is compiled."""

OnEvents = Callable[[list[TokenEvent]], None]


class AttentionProcess:
    """One life of a replica. `make_placement` and `find_workers` say what a membership means."""

    def __init__(
        self,
        world: World,
        engine: Engine,
        membership: Membership,
        make_placement: Callable[[Membership], Placement],
        find_workers: Callable[[Membership], dict[str, WorkerProcess]],
        obstacle: str = "",
    ) -> None:
        """Begin with a membership; an `obstacle` says why not all experts could be here."""
        self._obstacle = obstacle
        self._world = world
        self._make_placement, self._find_workers = make_placement, find_workers
        self.on_events: OnEvents = _drop
        self.engine = engine
        self._kv_cache = hand_cache(engine.limits.num_blocks.full, engine.limits.num_blocks.sliding)
        placement = make_placement(membership)
        incarnation = world.chance.getrandbits(63)
        limit = DispatchLimits(
            reply_timeout_s=world.chance.choice([0.2, 1.0, 30.0]), layer_timeout_s=world.chance.choice([8.0, 600.0])
        )
        self.dispatcher = TokenDispatcher(placement, incarnation, torch.float32, limit)
        self.transport = SimulatedTransport(world, self._from_workers)
        self.is_alive = True
        self._membership = membership
        self.has_all = membership.needs_no_worker
        self._is_loading = False
        self._epoch_here: int | None = None
        self._step_epoch_here: int | None = None
        self._pass: StepPass | None = None
        self._traffic = ExpertTraffic(NUM_LAYERS, NUM_EXPERTS)
        self._num_layers_run = 0
        self._num_steps = 0
        self._tick_at_s: float | None = None
        self._follow()
        if self.has_all and not self.dispatcher.placement.is_collapsed:
            self._dispatch(dispatch.FallbackOffered(True))

    @property
    def is_idle(self) -> bool:
        """Return whether no step is under way."""
        return self._pass is None

    def publish(self, membership: Membership) -> None:
        """Follow a membership."""
        if membership.epoch > self._membership.epoch:
            self._membership = membership
            self._follow()

    @property
    def epoch_in_use(self) -> int:
        """Return the oldest epoch that the step under way, or the next one, goes by."""
        running = [] if self.is_idle else [self._step_epoch_here]
        epochs = [self.dispatcher.oldest_epoch if one is None else one for one in [*running, self._epoch_here]]
        return min(epochs)

    def asks(self, worker_id: str) -> bool:
        """Say whether the step under way, or the next one, may ask a worker."""
        is_all_here = self._epoch_here is not None and (self.is_idle or self._step_epoch_here is not None)
        return not is_all_here and worker_id in self.dispatcher.placement.workers

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

    def end(self, reason: str, is_device_lost: bool = False) -> None:
        """End in order: every sequence is told that it must go on elsewhere."""
        self._world.note(f"the attention replica ends: {reason}")
        self._dispatch(dispatch.Hurry(HURRY_S))
        if is_device_lost and self._pass is not None:
            self._pass = None
            self._run(StepFailed(reason, is_fatal=True, reason=FinishReason.UNAVAILABLE))
        self._run(Stop(reason))
        self.die()

    def traffic_report(self) -> TrafficReport:
        """Return what this replica tells the supervisor; so few tokens count as many."""
        pairs, sent = self._traffic.pairs() * PAIRS_PER_PAIR, dict(self.dispatcher.counters.pairs)
        return TrafficReport(pairs, self.epoch_in_use, sent, self.has_all, "" if self.has_all else self._obstacle)

    def check_integrity(self) -> None:
        """Assert that the engine's books balance, and what the dispatcher says of itself."""
        if self.is_alive:
            self.engine.check_integrity()
            dispatcher = self.dispatcher
            assert dispatcher.has_every_expert or not dispatcher.is_whole, "whole, but not every expert can be asked"
            assert dispatcher.open_workers or not dispatcher.has_every_expert, "nobody has every expert"

    def assert_empty(self) -> None:
        """Assert that nothing of any sequence is left."""
        stats = self.engine.stats(self._world.now_s())
        assert (stats.num_running, stats.num_waiting) == (0, 0)
        assert stats.num_free_blocks == stats.num_blocks, "blocks have leaked"

    def _follow(self) -> None:
        """Load all experts, or let them go, and change between here and the workers, as the membership says."""
        placement = self._make_placement(self._membership)
        wants_all = self._membership.wants_local or placement.is_collapsed
        if wants_all and not self.has_all and not self._is_loading:
            self._is_loading = True
            self._world.soon(LOAD_ALL_S, self._loaded)
        is_for_here = self._membership.needs_no_worker
        has_nobody_yet = self.has_all and not self._membership.members
        if is_for_here != self.has_all and (is_for_here or has_nobody_yet):
            return
        self.transport.set_workers(self._find_workers(self._membership))
        self._epoch_here = placement.epoch if is_for_here else None
        if not is_for_here:
            self._dispatch(dispatch.PlacementPublished(placement))
            if not wants_all and self.has_all:
                self.has_all = False
                self._dispatch(dispatch.FallbackOffered(False))

    def _loaded(self) -> None:
        self._is_loading, self.has_all = False, True
        if self.is_alive:
            self._dispatch(dispatch.FallbackOffered(True))
            self._follow()

    def _run(self, event: Event) -> None:
        for action in self.engine.on(event, self._world.now_s()):
            match action:
                case Emit(events):
                    self.on_events(list(events))
                case RunStep(plan):
                    self._pass = step_pass(plan, self._kv_cache)
                    self._step_epoch_here = self._epoch_here
                    self._num_steps += 1
                    self._world.soon(STEP_S, lambda: self._go_on(None))
                case Prepare(request):
                    self._world.soon(PREPARE_S, lambda request=request: self._prepared(request))

    def _prepared(self, request: SequenceRequest) -> None:
        if self.is_alive:
            self._run(prepared(request))

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
        self._traffic.add(asked.layer, asked.gate.expert_ids.numpy())
        if self._step_epoch_here is not None:
            outputs = HandExperts().submit(asked.layer, asked.hidden, asked.gate).wait()
            self._world.soon(STEP_S, lambda: self._go_on(outputs))
            return
        self._num_layers_run += 1
        expert_ids = asked.gate.expert_ids.numpy()
        self._dispatch(dispatch.Submit(self._num_layers_run, self._num_steps, asked.layer, 0, asked.hidden, expert_ids))

    def _from_workers(self, event: dispatch.StreamEvent) -> None:
        if self.is_alive:
            self._dispatch(event)

    def _stand_in(self, request: ExpertRequest) -> None:
        """Answer for a worker that cannot be asked, if nobody else has meanwhile."""
        if not self.dispatcher.is_awaited(request.key.send):
            return
        everything = {(layer, expert) for layer in range(NUM_LAYERS) for expert in range(NUM_EXPERTS)}
        answer = answer_request(HandShard(everything), request, request.epoch, "cpu")
        self._from_workers(dispatch.Answered(FALLBACK, answer))

    def _dispatch(self, event: dispatch.Event) -> None:
        for action in self.dispatcher.on(event, self._world.now_s()):
            match action:
                case dispatch.Send(worker, request) if worker == FALLBACK:
                    self._world.soon(STEP_S, lambda request=request: self._stand_in(request))
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
