"""Engine: the life of sequences as a state machine, `on(event, now_s) -> actions`. No thread, no clock, no tensor.

        Admit                    schedule()                 StepDone: a token
    ─────────────▶  waiting  ─────────────────▶  running  ───────────────────▶  ended: finish_reason
                       ▲                            │
                       └─────────── preempted ──────┘        Abort, StepFailed, Stop: from anywhere

At most one step is under way. A sequence that ends while its rows are being computed keeps its blocks until the step
has ended; everything else of it is gone at once. A sequence with a constraint is prepared before it waits: its grammars
are compiled elsewhere.
"""

from bisect import insort
from collections.abc import Callable, Iterable
from collections.abc import Sequence as Ordered
from dataclasses import replace

from cluster.engine.block_manager import BlockManager
from cluster.engine.fair_shares import FairShares
from cluster.engine.limits import EngineLimits
from cluster.engine.live_sequence import LiveSequence
from cluster.engine.make_way import who_makes_way
from cluster.engine.scheduler import Chunk, Schedule, schedule
from cluster.engine.sequence import FinishReason, Sequence, SequenceRequest, TokenEvent
from cluster.engine.speculate import Drafter, drafters, with_drafts
from cluster.engine.stats import EngineStats
from cluster.engine.step import (
    Abort,
    Action,
    Admit,
    Emit,
    Event,
    Prepare,
    RunStep,
    StepDone,
    StepFailed,
    StepPlan,
    StepResult,
)
from cluster.engine.stop_rule import Ending, StopRule
from cluster.engine.waiting_queue import WaitingQueue
from cluster.grammar.compiler import Prepared
from model.sampler import SampledToken
from model.tokenizer import Tokenizer

_NOT_SAMPLED = "no token can be sampled: the logits are not finite, or every token is blocked"


class Engine:
    """Continuous batching over a paged KV cache."""

    def __init__(
        self,
        limits: EngineLimits,
        tokenizer: Callable[[], Tokenizer] = Tokenizer,
        new_drafter: Callable[[], Drafter | None] | None = None,
    ) -> None:
        """Start empty; `tokenizer` is called when a sequence first brings stop strings.

        Each sequence has its own drafter, by default what `limits.speculation` says.
        """
        self.limits = limits
        self._tokenizer = tokenizer
        self._new_drafter = new_drafter or drafters(limits.speculation)
        max_running = limits.step.max_running_sequences
        self._blocks = BlockManager(
            limits.num_blocks, limits.geometry, max_running, limits.max_context_tokens, limits.keeps_prefixes
        )
        self._live: dict[str, LiveSequence] = {}
        self._running: list[Sequence] = []
        self._shares = FairShares()
        self._waiting = WaitingQueue(self._shares)
        self._preparing: list[Sequence] = []
        self._under_way: StepPlan | None = None
        self._ended_under_way: list[Sequence] = []
        self._num_arrivals = 0
        self._num_tokens = 0
        self._num_preemptions = 0
        self._num_drafted = 0
        self._num_accepted = 0
        self._now_s = 0.0
        self._num_steps = 0
        self._num_failed_steps = 0

    def on(self, event: Event, now_s: float) -> list[Action]:
        """Take one event; return what is to be done because of it."""
        self._now_s = now_s
        preparations: list[Action] = []
        match event:
            case Admit(request):
                events = self._admit(request, now_s)
                if request.constraint is not None and request.sequence_id in self._live:
                    preparations = [Prepare(request, request.constraint)]
            case Prepared():
                events = self._take_guide(event)
            case Abort(sequence_id, attempt):
                events = self._abort(sequence_id, attempt)
            case StepDone(result):
                events = self._finish_step(result)
            case StepFailed():
                events = self._fail_step(event)
            case _:
                gone = Ending(FinishReason.UNAVAILABLE)
                events = [self._end(live, gone, event.reason) for live in list(self._live.values())]
        actions: list[Action] = [Emit(tuple(events))] if events else []
        plan = self._next_plan()
        return [*preparations, *actions, RunStep(plan)] if plan else [*preparations, *actions]

    def stats(self, now_s: float) -> EngineStats:
        """Return the counts of this moment."""
        waiting = [*self._waiting.unordered(), *self._preparing]
        waiting_since = [self._live[sequence.request.sequence_id].since_s for sequence in waiting]
        return EngineStats(
            num_running=len(self._running),
            num_waiting=len(waiting),
            num_blocks=self._blocks.capacity,
            num_free_blocks=self._blocks.free,
            num_tokens=self._num_tokens,
            num_steps=self._num_steps,
            num_failed_steps=self._num_failed_steps,
            num_preemptions=self._num_preemptions,
            longest_wait_s=now_s - min(waiting_since, default=now_s),
            num_drafted=self._num_drafted,
            num_accepted=self._num_accepted,
        )

    def check_integrity(self) -> None:
        """Assert that queues, tables and blocks agree with one another. Cheap enough for after every step of a test."""
        inside = [live.sequence for live in self._live.values()]
        queued = [*self._running, *self._waiting, *self._preparing]
        self._shares.check_integrity(_tenants(inside), _tenants(self._running))
        self._waiting.check_integrity()
        assert sorted(queued, key=_rank) == sorted(inside, key=_rank), "queues and sequences"
        assert self._running == sorted(self._running, key=_rank), "the running list is out of order"
        assert len(inside) <= self.limits.max_sequences, f"{len(inside)} sequences are inside"
        assert all(sequence.num_computed == 0 for sequence in self._waiting), "a waiting sequence holds keys and values"
        assert all(0 <= sequence.num_computed < sequence.num_known for sequence in self._running), "nothing to compute"
        assert self._under_way or not self._ended_under_way, "a sequence ended in a step that is not under way"
        ready = len(inside) - len(self._preparing)
        assert self._under_way or not ready, f"{ready} sequences could run and no step is under way"
        owners = {sequence.arrival: (sequence.num_computed, sequence.num_computed) for sequence in self._running}
        for chunk in self._under_way.chunks if self._under_way else ():
            owners[chunk.sequence.arrival] = chunk.start, chunk.start + chunk.num_rows
        self._blocks.check_integrity(owners)

    def _admit(self, request: SequenceRequest, now_s: float) -> list[TokenEvent]:
        events = self._abort(request.sequence_id, None)
        sequence = Sequence(request, self._num_arrivals)
        self._num_arrivals += 1
        limits = self.limits
        rule = StopRule(request, limits.eos_ids, limits.max_context_tokens, self._tokenizer)
        live = LiveSequence(sequence, rule, now_s, self._new_drafter())
        self._live[request.sequence_id] = live
        self._shares.join(request.tenant)
        if request.constraint is None:
            self._waiting.add(sequence)
        else:
            self._preparing.append(sequence)
        ending = _replay(rule, sequence)
        return [*events, self._end(live, ending)] if ending else events

    def _take_guide(self, prepared: Prepared) -> list[TokenEvent]:
        """Let a sequence wait for its turn, now that its guide is there, or end it if it can have none."""
        live = self._live.get(prepared.sequence_id)
        if live is None or live.sequence.request.attempt != prepared.attempt or live.sequence not in self._preparing:
            return []
        if prepared.guide is None or prepared.refusal is not None:
            return [self._end(live, Ending(FinishReason.REFUSED), prepared.refusal)]
        if prepared.guide.is_over:
            return [self._end(live, Ending(FinishReason.STOP, live.sequence.token_ids[-1]))]
        live.guide = prepared.guide
        self._preparing.remove(live.sequence)
        self._waiting.add(live.sequence)
        return []

    def _abort(self, sequence_id: str, attempt: int | None) -> list[TokenEvent]:
        live = self._live.get(sequence_id)
        if live is None or attempt not in {None, live.sequence.request.attempt}:
            return []
        return [self._end(live, Ending(FinishReason.ABORT))]

    def _finish_step(self, result: StepResult) -> list[TokenEvent]:
        plan = self._take_step()
        assert len(result.tokens) == len(plan.sample_rows), f"{len(result.tokens)} tokens, {len(plan.sample_rows)} rows"
        digests = result.digests or ("",) * len(result.tokens)
        stop, events = 0, list[TokenEvent]()
        for chunk in plan.chunks:
            start, stop = stop, stop + chunk.num_samples
            live = self._live.get(chunk.sequence.request.sequence_id)
            if live is not None and live.sequence is chunk.sequence:
                events += self._advance(live, chunk, result.tokens[start:stop], digests[start:stop])
        return events

    def _advance(
        self, live: LiveSequence, chunk: Chunk, sampled: Ordered[SampledToken], digests: tuple[str, ...]
    ) -> list[TokenEvent]:
        """Take what a chunk gave: its rows are computed as far as its draft was right."""
        sequence = live.sequence
        tokens, ending = live.take(chunk, sampled)
        num_accepted = max(0, len(tokens) - 1)
        sequence.num_computed = chunk.stop + num_accepted
        self._num_tokens += len(tokens)
        self._shares.charge(sequence.request, len(tokens))
        self._num_drafted += len(chunk.draft)
        self._num_accepted += num_accepted
        self._blocks.computed(sequence, chunk.start)
        if not sampled:
            return []
        if not tokens and live.refusal is not None:
            return [self._end(live, Ending(FinishReason.REFUSED), live.refusal)]
        if not tokens:
            return [self._end(live, error=_NOT_SAMPLED)]
        if ending:
            self._remove(live)
        return [live.event(tokens, digests[: len(tokens)] if digests[0] else (), ending)]

    def _fail_step(self, failure: StepFailed) -> list[TokenEvent]:
        plan = self._take_step()
        self._num_failed_steps += 1
        lost = {chunk.sequence.request.sequence_id: failure.reason for chunk in plan.chunks}
        if failure.is_fatal:  # others may do well elsewhere
            lost = dict.fromkeys(self._live, FinishReason.UNAVAILABLE) | lost
        ended = [(self._live[sequence_id], reason) for sequence_id, reason in lost.items() if sequence_id in self._live]
        return [self._end(live, Ending(reason), failure.error) for live, reason in ended]

    def _take_step(self) -> StepPlan:
        """Note that the step under way has ended, and release what ended with it."""
        plan, self._under_way = self._under_way, None
        assert plan is not None, "no step is under way"
        self._num_steps += 1
        for sequence in self._ended_under_way:
            self._blocks.release(sequence.arrival)
            self._blocks.forget(sequence.arrival)
        self._ended_under_way.clear()
        return plan

    def _end(self, live: LiveSequence, ending: Ending | None = None, error: str | None = None) -> TokenEvent:
        """Remove a sequence that ends without a token; return its last event."""
        self._remove(live)
        return live.event(ending=ending or Ending(FinishReason.ERROR), error=error)

    def _remove(self, live: LiveSequence) -> None:
        sequence = live.sequence
        del self._live[sequence.request.sequence_id]
        self._shares.leave(sequence.request.tenant)
        if sequence in self._preparing:
            self._preparing.remove(sequence)
            return
        if sequence in self._waiting:
            self._waiting.remove(sequence)
            self._blocks.forget(sequence.arrival)
            return
        self._stop_running(sequence)
        if self._under_way:
            self._ended_under_way.append(sequence)
        else:
            self._blocks.release(sequence.arrival)
            self._blocks.forget(sequence.arrival)

    def _next_plan(self) -> StepPlan | None:
        """Return the next step, or None if one is under way or nothing is to be done."""
        if self._under_way or not (self._running or self._waiting):
            return None
        limits, blocks = self.limits, self._blocks
        self._make_way()
        step = schedule(self._running, self._waiting, blocks.free, limits.geometry, limits.step, blocks)
        assert step.chunks, f"{len(self._live)} sequences are inside and none can run"
        step = self._speculate(step)
        self._apply(step)
        self._under_way = StepPlan(
            step.chunks,
            self._blocks.tables([chunk.sequence.arrival for chunk in step.chunks]),
            tuple(row for chunk in step.chunks for row in self._live_of(chunk).sample_rows(chunk)),
            self.limits.has_logit_digests,
        )
        return self._under_way

    def _make_way(self) -> None:
        """Preempt for a tenant of whom nothing runs, if another runs too much for it to begin."""
        if self._shares.num_tenants < 2 or not (self._running and self._waiting):
            return
        limits, blocks = self.limits, self._blocks
        head = next(iter(self._waiting))
        victim = who_makes_way(self._running, head, blocks.free, limits.geometry, limits.step, blocks)
        if victim is not None:
            self._preempt(victim)

    def _stop_running(self, sequence: Sequence) -> None:
        self._running.remove(sequence)
        self._shares.stop(sequence.request.tenant)

    def _preempt(self, sequence: Sequence) -> None:
        self._stop_running(sequence)
        self._blocks.release(sequence.arrival)
        sequence.num_computed = 0
        sequence.num_preemptions += 1
        self._num_preemptions += 1
        self._waiting.add(sequence)

    def _speculate(self, step: Schedule) -> Schedule:
        """Return the step with drafts where they are worth their rows."""
        limits = self.limits.speculation
        if limits.max_draft_tokens == 0:
            return step
        sampling = [chunk for chunk in step.chunks if chunk.num_samples]
        guesses = {chunk.sequence.arrival: self._live_of(chunk).guess(limits.max_draft_tokens) for chunk in sampling}
        return replace(step, chunks=with_drafts(step, guesses, self.limits.geometry, limits.row_cost_fraction))

    def _live_of(self, chunk: Chunk) -> LiveSequence:
        return self._live[chunk.sequence.request.sequence_id]

    def _apply(self, step: Schedule) -> None:
        for sequence in step.preempted:
            self._preempt(sequence)
        for sequence, num_cached_blocks in step.admitted:
            self._waiting.remove(sequence)
            self._blocks.admit(sequence, num_cached_blocks)
            sequence.num_computed = num_cached_blocks * self.limits.geometry.block_tokens
            if sequence.num_preemptions == 0:
                sequence.num_cached = min(sequence.num_computed, sequence.num_prompt)
                self._shares.charge(sequence.request, sequence.num_known - sequence.num_computed)
                sequence.queued_s = self._now_s - self._live[sequence.request.sequence_id].since_s
            insort(self._running, sequence, key=_rank)
            self._shares.begin(sequence.request.tenant)
        for chunk in step.chunks:
            self._blocks.grow(chunk.sequence.arrival, chunk.start + chunk.num_rows)


def _tenants(sequences: Iterable[Sequence]) -> list[str]:
    return [sequence.request.tenant for sequence in sequences]


def _rank(sequence: Sequence) -> tuple[int, int]:
    return sequence.rank


def _replay(rule: StopRule, sequence: Sequence) -> Ending | None:
    """Take the output released by earlier attempts; return how the sequence has ended with it already, or None."""
    for num_output, token_id in enumerate(sequence.token_ids[sequence.num_prompt :], start=1):
        ending = rule.ending(token_id, num_output)
        if ending:
            return ending
    return None
