"""TokenDispatcher: sees every layer through to all its outputs, whatever happens to workers. Without I/O or clock.

`on(event, now_s)` changes the state and returns what is to be done. A layer's input is held until all its pairs are
answered. When a stream breaks, a worker lacks an expert, fails or is late (`Hedging` says when), the pairs that it
owes go to another copy at once; if there is none, to this process's own fallback; without one they wait for a worker
or a placement to come, until the layer's deadline, which is the last resort. The first answer to a pair counts; by
the numerics contract a second one would have the same bits.

A new placement takes effect with the next send: experts are pure, so even one layer may mix epochs.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch

from cluster.errors import WorkerLost
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
    StreamOpened,
    StreamRefused,
    Submit,
    Tick,
)
from cluster.experts.dispatch_limits import DispatchLimits
from cluster.experts.dispatch_plan import WorkerPlan, plan_for_one
from cluster.experts.hedging import Hedging
from cluster.experts.layer_work import LayerWork
from cluster.experts.messages import ExpertFailure, ExpertLacks, ExpertReply, ExpertRequest, FrameKey
from cluster.experts.placement import FALLBACK, IntArray, Placement, WorkerId
from cluster.experts.reachable_copies import ReachableCopies


@dataclass(slots=True)
class _Sent:
    """A send that has not been answered."""

    key: FrameKey
    worker: WorkerId
    ticket: int
    positions: IntArray
    sent_at_s: float
    late_at_s: float
    is_hedge: bool
    is_late: bool = False


class TokenDispatcher:
    """The dispatcher of one attention process as a state machine. See the module for what it promises."""

    def __init__(
        self,
        placement: Placement,
        incarnation: int,
        output_dtype: torch.dtype,
        limits: DispatchLimits,
        has_fallback: bool = False,
    ) -> None:
        """Start with no stream open. `incarnation` is a random number that marks this process's frames.

        With `has_fallback`, pairs that no worker can be asked for are sent to FALLBACK, which is always there.
        """
        self.counters = DispatchCounters()
        self.incarnation = incarnation
        self._output_dtype = output_dtype
        self._limits = limits
        self._has_fallback = has_fallback
        self._hedging = Hedging(limits)
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
    def is_whole(self) -> bool:
        """Say whether every expert has a copy that can be asked, and no worker is suspected to be hung."""
        return self._reachable.is_complete and not self._hedging.suspects

    @property
    def oldest_epoch(self) -> int:
        """Return the oldest epoch by which a layer under way may have been sent: drops of older ones are safe."""
        return min([self.placement.epoch, *(work.epoch for work in self._works.values())])

    def is_awaited(self, send: int) -> bool:
        """Say whether an answer to the send of this number would still count."""
        return send in self._sent

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
            case FallbackOffered() | Hurry():
                return self._told(event, now_s)
            case Tick():
                return self._tick(now_s)

    def _told(self, event: FallbackOffered | Hurry, now_s: float) -> list[Action]:
        """Follow what this process says of itself."""
        if isinstance(event, Hurry):
            return self._hurry(event.layer_timeout_s, now_s)
        self._has_fallback = event.is_there
        return self._dispatch_unplaced(now_s)

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
        if reason != "foreign":
            self._hedging.heard_from(event.worker)
        if sent is None or reason is not None:
            self.counters.dropped[reason or "late or repeated"] += 1
            return []
        del self._sent[answer.key.send]
        work = self._works[sent.ticket]
        if sent.is_late:
            work.late.pop(sent.worker, None)  # it owes nothing more, so it may be asked again
        match answer:
            case ExpertReply(outputs=outputs):
                self._note_time(sent, now_s)
                self.counters.hedge_wins += work.fill(sent.positions, outputs) > 0 and sent.is_hedge
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

    def _note_time(self, sent: _Sent, now_s: float) -> None:
        if not sent.is_late and sent.worker != FALLBACK:
            self._hedging.answered(sent.worker, sent.positions.shape[0], now_s - sent.sent_at_s)

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
        self._hedging.heard_from(worker)
        self._troubles.pop(worker, None)
        for work in self._works.values():
            work.late.pop(worker, None)
            work.failed.pop(worker, None)
        return self._dispatch_unplaced(now_s)

    def _broken(self, worker: WorkerId, reason: str, now_s: float) -> list[Action]:
        self._reachable.broken(worker)
        self._hedging.heard_from(worker)
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
            actions += self._hedge(sent, now_s)
        if self._refresh_at_s is not None and self._refresh_at_s <= now_s:
            self._refresh_at_s = None
            actions += self._retry(now_s)
        return actions

    def _hedge(self, sent: _Sent, now_s: float) -> list[Action]:
        """Ask another copy as well: the late worker may still answer first. Once for each send, if so much may be."""
        ceiling_s = sent.sent_at_s + self._limits.reply_timeout_s
        if not self._hedging.may_hedge(sent.late_at_s >= ceiling_s, now_s):
            sent.late_at_s = min(2 * now_s - sent.sent_at_s, ceiling_s)
            return []
        sent.is_late = True
        self._works[sent.ticket].late[sent.worker] = f"no answer within {now_s - sent.sent_at_s:.3g} s"
        self._hedging.grew_late(sent.worker, sent.positions.shape[0], sent.late_at_s - sent.sent_at_s)
        actions = self._pass_on(sent, now_s)
        self.counters.hedges += sum(isinstance(action, Send) for action in actions)
        return actions

    def _hurry(self, layer_timeout_s: float, now_s: float) -> list[Action]:
        self._limits = replace(self._limits, layer_timeout_s=layer_timeout_s)
        for work in self._works.values():
            work.deadline_s = min(work.deadline_s, now_s + layer_timeout_s)
        return []

    def _retry(self, now_s: float) -> list[Action]:
        """Ask again for what is still wanted: a placement, and outputs of workers that failed."""
        waiting = [work for work in self._works.values() if work.unplaced.size]
        for work in waiting:
            work.failed.clear()
        actions = self._refresh(now_s) if waiting or self._reachable.is_lacking else []
        return [*actions, *self._dispatch_unplaced(now_s)]

    def _resend(self, sent: _Sent, now_s: float) -> list[Action]:
        """Ask others for what is owed, unless that was done when it grew late."""
        return [] if sent.is_late else self._pass_on(sent, now_s)

    def _pass_on(self, sent: _Sent, now_s: float) -> list[Action]:
        work = self._works[sent.ticket]
        missing = work.missing(sent.positions)
        actions = self._dispatch(work, missing, now_s, is_hedge=sent.is_late) if missing.size else []
        self.counters.resends += sum(isinstance(action, Send) for action in actions)
        return actions

    def _dispatch_unplaced(self, now_s: float) -> list[Action]:
        actions: list[Action] = []
        for work in self._works.values():
            if work.unplaced.size:
                positions, work.unplaced = work.missing(work.unplaced), work.unplaced[:0]
                actions += self._dispatch(work, positions, now_s)
        self.counters.resends += sum(isinstance(action, Send) for action in actions)
        return actions

    def _dispatch(
        self, work: LayerWork, positions: IntArray | None, now_s: float, is_hedge: bool = False
    ) -> list[Action]:
        """Send the pairs at `positions` (None: all) to copies that can be asked; keep the rest for later."""
        plans, unplaced = self._plan(work, positions)
        actions: list[Action] = [self._send(work, worker, plan, now_s, is_hedge) for worker, plan in plans]
        if unplaced.size:
            work.unplaced = np.union1d(work.unplaced, unplaced)
            actions += self._refresh(now_s)
        return actions

    def _plan(self, work: LayerWork, positions: IntArray | None) -> tuple[list[tuple[WorkerId, WorkerPlan]], IntArray]:
        """Return who is asked for what: prompt workers, for the rest the fallback, or else suspects; and who nobody."""
        avoided, suspects = {*work.late, *work.failed}, self._hedging.suspects
        plan = self._reachable.plan(work.submit, positions, avoided | suspects)
        sends, unplaced = list(plan.sends), plan.unplaced
        plans = [(self.placement.workers[each.worker], each) for each in sends]
        if unplaced.size and self._has_fallback and FALLBACK not in avoided:
            return [*plans, (FALLBACK, plan_for_one(work.submit.expert_ids, unplaced))], unplaced[:0]
        if unplaced.size and suspects:
            plan = self._reachable.plan(work.submit, unplaced, avoided)
            plans += [(self.placement.workers[each.worker], each) for each in plan.sends]
        return plans, plan.unplaced

    def _send(self, work: LayerWork, worker: WorkerId, plan: WorkerPlan, now_s: float, is_hedge: bool) -> Send:
        submit = work.submit
        key = FrameKey(self.incarnation, submit.step, submit.layer, submit.micro_batch, self._next_send)
        self._next_send += 1
        self.counters.sends += 1
        self.counters.pairs[worker] += plan.positions.shape[0]
        patience_s = float("inf")
        if worker == FALLBACK:
            self.counters.fallbacks += 1
        else:
            patience_s = self._hedging.patience_s(worker, plan.positions.shape[0])
        self._sent[key.send] = _Sent(key, worker, submit.ticket, plan.positions, now_s, now_s + patience_s, is_hedge)
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
