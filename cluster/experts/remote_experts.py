"""RemoteExperts: the experts of a model wherever they are, as `model.moe.Experts`; the engine's side of the dispatch.

Drives a TokenDispatcher. Events come in from the engine's thread (submits, and time while it waits) and from the
transport's thread (answers, streams); a lock makes them one after the other, and what is to be sent is sent outside
it. The thread that waits for a layer is woken when the layer is complete, and to compute what falls to this process.
"""

import threading
from collections import deque
from collections.abc import Callable, Collection

import torch
from torch import Tensor

from cluster.clock import MonotonicClock
from cluster.errors import ExpertError, PlacementError, WorkerLost
from cluster.experts.dispatch_counters import DispatchCounters
from cluster.experts.dispatch_events import (
    Action,
    Answered,
    Complete,
    Event,
    Fail,
    FallbackOffered,
    Hurry,
    PlacementPublished,
    RefreshPlacement,
    Send,
    StreamBroken,
    StreamEvent,
    StreamOpened,
    StreamRefused,
    Submit,
    Tick,
)
from cluster.experts.fallback_shard import FallbackShard
from cluster.experts.messages import ExpertFailure, ExpertRequest, FrameFormat, Shard, answer_request
from cluster.experts.placement import FALLBACK, Placement, WorkerId
from cluster.experts.token_dispatcher import TokenDispatcher
from cluster.experts.traffic import ExpertTraffic, TrafficReport
from cluster.experts.transport import ExpertTransport
from model.moe import GateOutput, Pending

_LONGEST_WAIT_S = 1.0


class RemoteExperts:
    """All experts of a model, through a transport. One thread submits and waits; the rest may be any thread's."""

    def __init__(
        self,
        dispatcher: TokenDispatcher,
        transport: ExpertTransport,
        frame_format: FrameFormat,
        fallback: FallbackShard | None = None,
        local_device: str = "cpu",
    ) -> None:
        """Drive `dispatcher` over `transport`, which is started, and closed by `close`.

        `fallback` answers for workers that cannot be asked, on `local_device` and on the waiting thread.
        """
        self.on_refresh: Callable[[int], None] = _ask_nobody
        """Called with an epoch, on any thread, when a newer placement (or the same again) should be published. It must
        not block. May be set at any time."""
        self._dispatcher = dispatcher
        self._transport = transport
        self._format = frame_format
        self._fallback = fallback
        self._stand_in: Shard | None = None
        self._local_device = local_device
        self._traffic = ExpertTraffic(frame_format.num_layers, frame_format.num_experts)
        self._clock = MonotonicClock()
        self._changed = threading.Condition()
        self._results: dict[int, Tensor | ExpertError] = {}
        self._local_requests: deque[ExpertRequest] = deque()
        self._refusals: dict[WorkerId, ExpertError] = {}
        self._num_tickets = 0
        self._tickets: dict[int, int] = {}  # the one under way, by micro-batch
        self._steps: dict[int, tuple[int, int]] = {}
        transport.start(self._on_stream_event)

    def submit(self, layer: int, hidden: Tensor, gate: GateOutput, micro_batch: int = 0) -> Pending:
        """Start the experts of `layer` on hidden [T, H]; see `model.moe.Experts`.

        Each micro-batch has one layer under way: submitting the next forgets one that nobody waited for. Raises
        ValueError if hidden is not what the workers were told to expect.
        """
        self._check(layer, hidden)
        assert gate.expert_ids.shape[0] == hidden.shape[0], f"{gate.expert_ids.shape} ids for {hidden.shape} rows"
        self._let_go_of_fallback()
        ticket = self._new_ticket(micro_batch)
        step = self._step(layer, micro_batch)
        expert_ids = gate.expert_ids.cpu().numpy()
        self._traffic.add(layer, expert_ids)
        self._on_event(Submit(ticket, step, layer, micro_batch, hidden.cpu(), expert_ids))
        return PendingOutputs(self, ticket, hidden.device)

    def publish(self, placement: Placement) -> None:
        """Use `placement` from the next send on, unless a newer one is in use; raises PlacementError if it is not for
        this model.
        """
        expected = (self._format.num_layers, self._format.num_experts)
        if (placement.num_layers, placement.num_experts) != expected:
            raise PlacementError(f"a placement of {placement.num_layers} × {placement.num_experts}, not {expected}")
        self._on_event(PlacementPublished(placement))

    def stand_in(self, shard: Shard | None) -> None:
        """Have `shard`, which holds all experts, answer on the waiting thread for workers that cannot; None ends it."""
        self._stand_in = shard
        self._on_event(FallbackOffered(shard is not None or self._fallback is not None))

    def hurry(self, layer_timeout_s: float) -> None:
        """Wait for no layer longer than this from now on: whoever stops the engine need not wait for lost workers."""
        self._on_event(Hurry(layer_timeout_s))

    @property
    def epoch_in_use(self) -> int:
        """Return the oldest epoch that a send under way may go by: experts that only older ones name may be dropped."""
        with self._changed:
            return self._dispatcher.oldest_epoch

    @property
    def placement(self) -> Placement:
        """Return the placement in use."""
        with self._changed:
            return self._dispatcher.placement

    @property
    def open_workers(self) -> frozenset[WorkerId]:
        """Return the workers that can be sent to."""
        with self._changed:
            return self._dispatcher.open_workers

    @property
    def counters(self) -> DispatchCounters:
        """Return what has happened so far; read it, don't change it."""
        return self._dispatcher.counters

    def traffic_report(self) -> TrafficReport:
        """Return which experts were chosen lately, the oldest epoch in use, and who was asked how much."""
        with self._changed:
            epoch, pairs_by_worker = self._dispatcher.oldest_epoch, dict(self.counters.pairs)
        return TrafficReport(self._traffic.pairs(), epoch, pairs_by_worker)

    def wait_until_connected(self, timeout_s: float, workers: Collection[WorkerId] | None = None) -> None:
        """Return when `workers`, by default all of the placement, can be sent to.

        After `timeout_s`, those that can be sent to are enough if each expert has a copy on one of them. Raises
        HandshakeRefused as soon as one refuses, WorkerLost naming those that are missing when the time is over.
        """
        deadline_s = self._clock.now_s() + timeout_s
        with self._changed:
            while missing := set(self._expected(workers)) - self._dispatcher.open_workers:
                refused = [self._refusals[worker] for worker in sorted(missing) if worker in self._refusals]
                if refused:
                    raise refused[0]
                left_s = deadline_s - self._clock.now_s()
                if left_s <= 0 and self._dispatcher.has_every_expert:
                    return
                if left_s <= 0:
                    raise WorkerLost(f"no connection to {', '.join(sorted(missing))} after {timeout_s:g} s")
                self._changed.wait(min(left_s, _LONGEST_WAIT_S))

    def _expected(self, workers: Collection[WorkerId] | None) -> Collection[WorkerId]:
        return self._dispatcher.placement.workers if workers is None else workers

    def close(self) -> None:
        """End all streams."""
        self._transport.close()

    def wait(self, ticket: int) -> Tensor:
        """Return the outputs [T, K, H] of `ticket` once; raises WorkerLost if they cannot be had in time."""
        assert ticket in self._tickets.values(), f"ticket {ticket} was left behind: under way are {self._tickets}"
        while True:
            with self._changed:
                while ticket not in self._results and not self._local_requests and not self._is_tick_due():
                    self._changed.wait(self._until_tick_s())
                result = self._results.pop(ticket, None)
                request = self._next_local_request() if result is None else None
            if isinstance(result, ExpertError):
                raise result
            if result is not None:
                return result
            self._on_event(Tick() if request is None else self._compute(request))

    def _next_local_request(self) -> ExpertRequest | None:
        """Return the next request that falls to this process, if there is one that nobody else has answered."""
        while self._local_requests:
            request = self._local_requests.popleft()
            if self._dispatcher.is_awaited(request.key.send):
                return request
        return None

    def _compute(self, request: ExpertRequest) -> Answered:
        shard = self._stand_in or self._fallback
        if shard is None:
            return Answered(FALLBACK, ExpertFailure(request.key, request.epoch, "it stands in for workers no more"))
        return Answered(FALLBACK, answer_request(shard, request, request.epoch, self._local_device))

    def _let_go_of_fallback(self) -> None:
        """Forget what stood in for workers once all are there again."""
        if self._fallback is not None and self._fallback.num_resident:
            with self._changed:
                is_whole = self._dispatcher.is_whole
            if is_whole:
                self._fallback.clear()

    def _is_tick_due(self) -> bool:
        deadline_s = self._dispatcher.next_deadline_s()
        return deadline_s is not None and deadline_s <= self._clock.now_s()

    def _until_tick_s(self) -> float:
        deadline_s = self._dispatcher.next_deadline_s()
        if deadline_s is None:
            return _LONGEST_WAIT_S
        return min(_LONGEST_WAIT_S, max(0.0, deadline_s - self._clock.now_s()))

    def _on_stream_event(self, event: StreamEvent) -> None:
        if isinstance(event, StreamRefused):
            self._refusals[event.worker] = event.error
        elif isinstance(event, StreamOpened | StreamBroken):
            self._refusals.pop(event.worker, None)
        self._on_event(event)

    def _on_event(self, event: Event) -> None:
        with self._changed:
            actions = self._dispatcher.on(event, self._clock.now_s())
            is_worth_waking = not isinstance(event, Answered | Submit)
            for action in actions:
                # A send that a wait does not know of may grow late before that wait looks up.
                is_worth_waking |= self._note(action) or isinstance(action, Send)
            if is_worth_waking:
                self._changed.notify_all()
        for action in actions:
            if isinstance(action, Send) and action.worker != FALLBACK:
                self._transport.send(action.worker, action.request)
            elif isinstance(action, RefreshPlacement):
                self.on_refresh(action.epoch)

    def _note(self, action: Action) -> bool:
        """Keep what the waiting thread is to find; say whether it is to look."""
        match action:
            case Complete(ticket) | Fail(ticket) if ticket not in self._tickets.values():
                return False  # left behind for a newer one that is just being submitted
            case Complete(ticket, outputs):
                self._results[ticket] = outputs
            case Fail(ticket, error):
                self._results[ticket] = error
            case Send(worker, request) if worker == FALLBACK:
                self._local_requests.append(request)
            case _:
                return False
        return True

    def _new_ticket(self, micro_batch: int) -> int:
        with self._changed:
            self._results.pop(self._tickets.get(micro_batch, -1), None)  # left behind
            ticket = self._tickets[micro_batch] = self._num_tickets
            self._num_tickets += 1
            return ticket

    def _step(self, layer: int, micro_batch: int) -> int:
        """Number the steps: a micro-batch whose layer does not rise has begun another."""
        step, last_layer = self._steps.get(micro_batch, (0, -1))
        if layer <= last_layer:
            step += 1
        self._steps[micro_batch] = (step, layer)
        return step

    def _check(self, layer: int, hidden: Tensor) -> None:
        frame_format = self._format
        if not 0 <= layer < frame_format.num_layers:
            raise ValueError(f"layer {layer} of {frame_format.num_layers}")
        if hidden.dtype != frame_format.input_dtype or hidden.shape[1] != frame_format.hidden_size:
            expected = f"[T, {frame_format.hidden_size}] {frame_format.input_dtype}"
            raise ValueError(f"rows {tuple(hidden.shape)} {hidden.dtype}, expected {expected}")
        if hidden.shape[0] > frame_format.max_rows:
            raise ValueError(f"{hidden.shape[0]} rows in a step, at most {frame_format.max_rows}")


class PendingOutputs:
    """A layer under way; satisfies `model.moe.Pending`."""

    def __init__(self, experts: RemoteExperts, ticket: int, device: torch.device) -> None:
        """Stand for `ticket` of `experts`; the outputs are wanted on `device`."""
        self._experts = experts
        self._ticket = ticket
        self._device = device
        self._outputs: Tensor | None = None

    def wait(self) -> Tensor:
        """Return [T, K, H] in the expert output dtype; raises WorkerLost if it cannot be had in time."""
        if self._outputs is None:
            self._outputs = self._experts.wait(self._ticket).to(self._device)
        return self._outputs


def _ask_nobody(epoch: int) -> None:
    """Stand in where placements come by themselves."""
