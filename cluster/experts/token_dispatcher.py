"""TokenDispatcher: sees every layer through to all its outputs, whatever happens to workers. Without I/O or clock.

`on(event, now_s)` changes the state and returns what is to be done. A layer's input is held until all its pairs are
answered. When a stream breaks, a worker lacks an expert, fails or is late, the pairs that it owes go to another copy
at once; if there is none, they wait for a worker or a placement to come, until the layer's deadline. The first answer
to a pair counts; by the numerics contract a second one would have the same bits.

A new placement takes effect with the next send: experts are pure, so even one layer may mix epochs.
"""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import torch

from cluster.errors import WorkerLost
from cluster.experts.dispatch_events import (
    Action,
    Answered,
    Complete,
    Event,
    Fail,
    PlacementPublished,
    RefreshPlacement,
    Send,
    StreamBroken,
    StreamOpened,
    StreamRefused,
    Submit,
    Tick,
)
from cluster.experts.dispatch_plan import WorkerPlan
from cluster.experts.layer_work import LayerWork
from cluster.experts.messages import ExpertFailure, ExpertLacks, ExpertReply, ExpertRequest, FrameKey
from cluster.experts.placement import IntArray, Placement, WorkerId
from cluster.experts.reachable_copies import ReachableCopies


@dataclass(frozen=True, slots=True)
class DispatchLimits:
    """How long a dispatcher waits."""

    reply_timeout_s: float = 30.0
    """For one send; then another copy is asked as well."""
    layer_timeout_s: float = 60.0
    """For all outputs of a layer; then it fails."""
    refresh_interval_s: float = 0.5
    """Between two requests for a placement, which are repeated while a layer waits for one."""


@dataclass(slots=True)
class DispatchCounters:
    """What has happened so far."""

    sends: int = 0
    resends: int = 0
    """Sends of pairs that another worker owed."""
    completed: int = 0
    failed: int = 0
    forgotten: int = 0
    """Layers that their micro-batch left behind."""
    lacks: int = 0
    failures: int = 0
    """Requests that a worker could not compute."""
    dropped: Counter[str] = field(default_factory=Counter[str])
    """Answers that did not count, by reason."""


@dataclass(slots=True)
class _Sent:
    """A send that has not been answered."""

    key: FrameKey
    worker: WorkerId
    ticket: int
    positions: IntArray
    late_at_s: float
    is_late: bool = False


class TokenDispatcher:
    """The dispatcher of one attention process as a state machine. See the module for what it promises."""

    def __init__(
        self, placement: Placement, incarnation: int, output_dtype: torch.dtype, limits: DispatchLimits
    ) -> None:
        """Start with no stream open. `incarnation` is a random number that marks this process's frames."""
        self.counters = DispatchCounters()
        self.incarnation = incarnation
        self._output_dtype = output_dtype
        self._limits = limits
        self._works: dict[int, LayerWork] = {}
        self._tickets: dict[int, int] = {}  # by micro-batch
        self._sent: dict[int, _Sent] = {}
        self._reachable = ReachableCopies(placement)
        self._troubles: dict[WorkerId, str] = {}
        self._next_send = 0
        self._refresh_at_s: float | None = None
        self._refreshed_at_s = float("-inf")

    @property
    def placement(self) -> Placement:
        """Return the placement in use."""
        return self._reachable.placement

    @property
    def open_workers(self) -> frozenset[WorkerId]:
        """Return the workers that can be sent to."""
        return frozenset(self._reachable.open)

    @property
    def has_every_expert(self) -> bool:
        """Say whether a copy of every expert can be asked."""
        return self._reachable.is_complete

    @property
    def oldest_epoch(self) -> int:
        """Return the oldest epoch by which a layer under way may have been sent: drops of older ones are safe."""
        return min([self.placement.epoch, *(work.epoch for work in self._works.values())])

    def next_deadline_s(self) -> float | None:
        """Return when a Tick will change something, if nothing else happens before."""
        times = [sent.late_at_s for sent in self._sent.values() if not sent.is_late]
        times += [work.deadline_s for work in self._works.values()]
        if self._refresh_at_s is not None:
            times.append(self._refresh_at_s)
        return min(times, default=None)

    def on(self, event: Event, now_s: float) -> list[Action]:
        """Take in `event` at the time `now_s` and return what is to be done, in order."""
        match event:
            case Answered():
                return self._answered(event, now_s)
            case Submit():
                return self._submit(event, now_s)
            case StreamOpened(worker):
                return self._opened(worker, now_s)
            case StreamBroken(worker, reason):
                return self._broken(worker, reason, now_s)
            case StreamRefused(worker, error):
                self._troubles[worker] = str(error)
                return []
            case PlacementPublished(placement):
                return self._published(placement, now_s)
            case Tick():
                return self._tick(now_s)

    def _submit(self, submit: Submit, now_s: float) -> list[Action]:
        older = self._tickets.get(submit.micro_batch)
        if older is not None:
            self._forget(older)
            self.counters.forgotten += 1
        work = LayerWork(submit, self.placement.epoch, self._output_dtype, now_s + self._limits.layer_timeout_s)
        self._works[submit.ticket] = work
        self._tickets[submit.micro_batch] = submit.ticket
        if work.is_complete:
            return self._complete(work)
        return self._dispatch(work, None, now_s)

    def _answered(self, event: Answered, now_s: float) -> list[Action]:
        answer = event.answer
        sent = self._sent.get(answer.key.send)
        reason = self._why_dropped(sent, event)
        if sent is None or reason is not None:
            self.counters.dropped[reason or "late or repeated"] += 1
            return []
        del self._sent[answer.key.send]
        work = self._works[sent.ticket]
        match answer:
            case ExpertReply(outputs=outputs):
                work.fill(sent.positions, outputs)
                return self._complete(work) if work.is_complete else []
            case ExpertLacks(epoch=epoch, expert_ids=expert_ids):
                self._reachable.lacking(sent.worker, sent.key.layer, expert_ids)
                self._troubles[sent.worker] = f"lacks experts {expert_ids.tolist()} at epoch {epoch}"
                self.counters.lacks += 1
                return [*self._refresh(now_s), *self._resend(sent, now_s)]
            case ExpertFailure(message=message):
                work.failed[sent.worker] = self._troubles[sent.worker] = message
                self.counters.failures += 1
                return self._resend(sent, now_s)

    def _why_dropped(self, sent: _Sent | None, event: Answered) -> str | None:
        answer = event.answer
        if answer.key.incarnation != self.incarnation:
            return "foreign"
        if sent is None:
            return "late or repeated"
        if answer.key != sent.key or event.worker != sent.worker:
            return "mismatched"
        if isinstance(answer, ExpertReply) and answer.outputs.shape[0] != sent.positions.shape[0]:
            return "mismatched"
        return None

    def _opened(self, worker: WorkerId, now_s: float) -> list[Action]:
        self._reachable.opened(worker)
        self._troubles.pop(worker, None)
        for work in self._works.values():
            work.late.pop(worker, None)
            work.failed.pop(worker, None)
        return self._dispatch_unplaced(now_s)

    def _broken(self, worker: WorkerId, reason: str, now_s: float) -> list[Action]:
        self._reachable.broken(worker)
        self._troubles[worker] = reason
        owed = [sent for sent in self._sent.values() if sent.worker == worker]
        for sent in owed:
            del self._sent[sent.key.send]
        return [action for sent in owed for action in self._resend(sent, now_s)]

    def _published(self, placement: Placement, now_s: float) -> list[Action]:
        if placement.epoch < self.placement.epoch:
            return []
        self._reachable.use(placement)
        return self._dispatch_unplaced(now_s)

    def _tick(self, now_s: float) -> list[Action]:
        actions: list[Action] = []
        for work in [work for work in self._works.values() if work.deadline_s <= now_s]:
            actions.append(Fail(work.submit.ticket, self._loss(work)))
            self.counters.failed += 1
            self._forget(work.submit.ticket)
        for sent in [sent for sent in self._sent.values() if not sent.is_late and sent.late_at_s <= now_s]:
            sent.is_late = True  # it may still answer first
            self._works[sent.ticket].late[sent.worker] = f"no answer within {self._limits.reply_timeout_s:g} s"
            actions += self._resend(sent, now_s)
        if self._refresh_at_s is not None and self._refresh_at_s <= now_s:
            self._refresh_at_s = None
            actions += self._retry(now_s)
        return actions

    def _retry(self, now_s: float) -> list[Action]:
        """Ask again for what is still wanted: a placement, and outputs of workers that failed."""
        waiting = [work for work in self._works.values() if work.unplaced.size]
        for work in waiting:
            work.failed.clear()
        actions = self._refresh(now_s) if waiting or self._reachable.is_lacking else []
        return [*actions, *self._dispatch_unplaced(now_s)]

    def _resend(self, sent: _Sent, now_s: float) -> list[Action]:
        work = self._works[sent.ticket]
        missing = work.missing(sent.positions)
        return self._dispatch(work, missing, now_s, is_again=True) if missing.size else []

    def _dispatch_unplaced(self, now_s: float) -> list[Action]:
        actions: list[Action] = []
        for work in self._works.values():
            if work.unplaced.size:
                positions, work.unplaced = work.missing(work.unplaced), work.unplaced[:0]
                actions += self._dispatch(work, positions, now_s, is_again=True)
        return actions

    def _dispatch(
        self, work: LayerWork, positions: IntArray | None, now_s: float, is_again: bool = False
    ) -> list[Action]:
        """Send the pairs at `positions` (None: all) to copies that can be asked; keep the rest for later."""
        plan = self._reachable.plan(work.submit, positions, (*work.late, *work.failed))
        actions: list[Action] = [self._send(work, send, now_s) for send in plan.sends]
        self.counters.sends += len(plan.sends)
        self.counters.resends += len(plan.sends) if is_again else 0
        if plan.unplaced.size:
            work.unplaced = np.union1d(work.unplaced, plan.unplaced)
            actions += self._refresh(now_s)
        return actions

    def _send(self, work: LayerWork, plan: WorkerPlan, now_s: float) -> Send:
        submit = work.submit
        key = FrameKey(self.incarnation, submit.step, submit.layer, submit.micro_batch, self._next_send)
        self._next_send += 1
        worker = self.placement.workers[plan.worker]
        late_at_s = now_s + self._limits.reply_timeout_s
        self._sent[key.send] = _Sent(key, worker, submit.ticket, plan.positions, late_at_s)
        rows, dtype = work.rows(plan.row_ids), submit.hidden.dtype
        return Send(worker, ExpertRequest(key, self.placement.epoch, dtype, rows, plan.pair_rows, plan.expert_ids))

    def _complete(self, work: LayerWork) -> list[Action]:
        self._forget(work.submit.ticket)
        self.counters.completed += 1
        return [Complete(work.submit.ticket, work.outputs())]

    def _forget(self, ticket: int) -> None:
        work = self._works.pop(ticket)
        del self._tickets[work.submit.micro_batch]
        for sent in [sent for sent in self._sent.values() if sent.ticket == ticket]:
            del self._sent[sent.key.send]

    def _refresh(self, now_s: float) -> list[Action]:
        """Ask for a placement, now or as soon as the last request is old enough; see to it that it is asked again."""
        at_s = self._refreshed_at_s + self._limits.refresh_interval_s
        if now_s < at_s:
            self._refresh_at_s = at_s
            return []
        self._refresh_at_s = now_s + self._limits.refresh_interval_s
        self._refreshed_at_s = now_s
        return [RefreshPlacement(self.placement.epoch)]

    def _loss(self, work: LayerWork) -> WorkerLost:
        submit = work.submit
        experts = np.unique(submit.expert_ids.reshape(-1)[work.missing(np.arange(submit.expert_ids.size))]).tolist()
        holders = {worker for expert in experts for worker in self.placement.holders(submit.layer, expert)}
        troubles = {**self._troubles, **work.late, **work.failed}
        told = "; ".join(f"{worker}: {troubles.get(worker, 'no answer')}" for worker in sorted(holders))
        return WorkerLost(
            f"layer {submit.layer}: {work.num_missing} of {submit.expert_ids.size} answers missing after "
            f"{self._limits.layer_timeout_s:g} s, from experts {experts} ({told})"
        )
