"""EngineThread: drives an Engine and its ModelRunner on one plain thread.

    any thread:   admit, abort ──▶ bounded inbox ─┐
    this thread:  step, inbox, Engine.on, on_step ┴▶ next step …

Inputs are taken between steps. Every wait has a deadline, every failure an event for each sequence that it touches.
"""

import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from cluster.clock import Clock, MonotonicClock
from cluster.engine.engine import Engine
from cluster.engine.fair_shares import may_hold_one_more
from cluster.engine.limits import EngineLimits
from cluster.engine.sequence import FinishReason, SequenceRequest, TokenEvent
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
    Stop,
)
from cluster.errors import ClusterError, EngineError, EngineStopped, QueueFull
from cluster.grammar.compiler import GrammarCompiler, Prepared
from model.device_errors import is_device_lost

logger = logging.getLogger(__name__)
_IDLE_WAIT_S = 0.5
"""An idle engine looks up this often; inputs wake it at once."""
MAX_FAILED_IN_A_ROW = 3
"""Steps that may fail one after the other, for other reasons than the cluster's, before the engine stops."""
_CHECK_WAIT_S = 60.0
"""Longest wait for the engine's answer between two steps."""

OnStep = Callable[[list[TokenEvent]], None]


class Runner(Protocol):
    """Carries steps out; `model_runner.ModelRunner` is one."""

    def run(self, plan: StepPlan) -> StepResult:
        """Return what the step gives."""
        ...


@dataclass(slots=True)
class _Check:
    """A request to check integrity between two steps."""

    is_done: threading.Event = field(default_factory=threading.Event)
    error: AssertionError | None = None


_Input = Admit | Abort | Prepared | _Check | Stop


class EngineThread:
    """A running engine. `admit` and `abort` may be called from any thread."""

    def __init__(
        self,
        engine: Engine,
        runner: Runner,
        on_step: OnStep | None = None,
        clock: Clock | None = None,
        compiler: GrammarCompiler | None = None,
    ) -> None:
        """Prepare; `start` begins. `on_step` gets all events of a step in one call, on the engine's thread.

        It must be quick and must not raise; it may be set as an attribute until `start`. Without a `compiler`,
        sequences with a constraint are not taken.
        """
        self.on_step: OnStep = on_step or _drop
        self._engine = engine
        self._runner = runner
        self._clock = clock or MonotonicClock()
        self._compiler = compiler
        # A live sequence has at most an Admit, a Prepared and an Abort in here: only checks can find it full.
        self._inbox: queue.Queue[_Input] = queue.Queue(3 * engine.limits.max_sequences + 16)
        self._lock = threading.Lock()
        self._inside: dict[str, SequenceRequest] = {}
        self._aborted: set[str] = set()
        self._stopped_because: str | None = None
        self._num_failed_in_a_row = 0
        self._stats = engine.stats(self._clock.now_s())
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    @property
    def limits(self) -> EngineLimits:
        """Return the engine's limits."""
        return self._engine.limits

    @property
    def stopped_because(self) -> str | None:
        """Return why the engine takes no more sequences, or None while it does."""
        return self._stopped_because

    def start(self) -> None:
        """Begin to take sequences."""
        self._thread.start()

    def admit(self, request: SequenceRequest) -> None:
        """Take a sequence; its events go to `on_step`, the last one with a finish_reason.

        Raises QueueFull, EngineStopped, or for a request that is wrong in itself what `check_request` raises; nothing
        is admitted then. A higher attempt of a sequence that is still here ends the older one.
        """
        self.limits.check_request(request)
        if request.constraint is not None and self._compiler is None:
            raise EngineError("this engine compiles no grammars")
        with self._lock:
            self._check_open()
            current = self._inside.get(request.sequence_id)
            if current is None:
                self._check_room(request)
            if current is not None and current.attempt >= request.attempt:
                raise EngineError(f"sequence {request.sequence_id} is here already, at attempt {current.attempt}")
            self._inside[request.sequence_id] = request
            self._aborted.discard(request.sequence_id)
            self._put(Admit(request))

    def abort(self, sequence_id: str, attempt: int | None = None) -> None:
        """End a sequence; its blocks are free after the step under way. An unknown sequence is no error.

        With `attempt`, only that attempt is ended.
        """
        with self._lock:
            current = self._inside.get(sequence_id)
            if current is None or attempt not in {None, current.attempt} or sequence_id in self._aborted:
                return
            self._aborted.add(sequence_id)
            self._put(Abort(sequence_id, current.attempt))

    def stats(self) -> EngineStats:
        """Return the counts after the last step."""
        return self._stats

    def check_integrity(self) -> None:
        """Raise AssertionError if the engine's books do not balance; looks between two steps."""
        check = _Check()
        if not self._thread.is_alive():
            self._engine.check_integrity()
            return
        self._inbox.put(check, timeout=_CHECK_WAIT_S)
        if not check.is_done.wait(_CHECK_WAIT_S):
            raise EngineStopped(f"the engine did not answer within {_CHECK_WAIT_S:g} s")
        if check.error is not None:
            raise check.error

    def end(self, reason: str) -> None:
        """Take no more sequences, and end those inside with an error event after the step under way; does not wait."""
        with self._lock:
            if self._stopped_because is not None:
                return
            self._stopped_because = reason
        self._inbox.put(Stop(reason), timeout=_CHECK_WAIT_S)
        if self._compiler is not None:
            self._compiler.close()

    def stop(self, timeout_s: float = 30.0) -> None:
        """End every sequence with an error event and then the thread; raises EngineStopped if a step outlasts that."""
        self.end("the engine was stopped")
        if self._thread.ident is None:
            return
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            raise EngineStopped(f"the step under way did not end within {timeout_s:g} s; the engine's thread goes on")

    def _check_open(self) -> None:
        if self._stopped_because is not None:
            raise EngineStopped(self._stopped_because)

    def _check_room(self, request: SequenceRequest) -> None:
        """Raise QueueFull if there is no place left, or only such as a tenant with many leaves to others."""
        num_free = self.limits.max_sequences - len(self._inside)
        if num_free <= 0:
            raise QueueFull(f"{len(self._inside)} sequences run or wait, and no more may; try again later")
        if request.tenant and request.attempt == 0:
            num_own = sum(one.tenant == request.tenant for one in self._inside.values())
            if not may_hold_one_more(num_own, num_free):
                raise QueueFull(f"{num_own} sequences of this tenant run or wait; the last places are for others")

    def _put(self, item: Admit | Abort | Prepared) -> None:
        try:
            self._inbox.put_nowait(item)
        except queue.Full:
            raise QueueFull(f"{self._inbox.qsize()} inputs wait for the engine; try again later") from None

    def _run(self) -> None:
        try:
            self._loop()
        except Exception:
            logger.exception("the engine has a bug and stops")
            self._give_up("the engine failed and has stopped; its log says why")

    def _loop(self) -> None:
        plan: StepPlan | None = None
        while True:
            outcome = self._run_step(plan) if plan else None
            inputs = self._take_inputs(is_idle=outcome is None)
            events: list[Event] = [item for item in inputs if not isinstance(item, _Check)]
            events += self._compiler.overdue() if self._compiler is not None else []
            if outcome:
                events.append(outcome)
            plan = self._act([action for event in events for action in self._engine.on(event, self._clock.now_s())])
            for item in inputs:
                if isinstance(item, _Check):
                    self._answer(item)
            if any(isinstance(event, Stop) for event in events):
                return
            if isinstance(outcome, StepFailed) and outcome.is_fatal:
                self._give_up(outcome.error)
                return

    def _run_step(self, plan: StepPlan) -> StepDone | StepFailed:
        try:
            result = self._runner.run(plan)
        except ClusterError as error:
            logger.exception("a step of %d sequences failed", len(plan.chunks))
            return StepFailed(_told(error), is_fatal=False, reason=FinishReason.UNAVAILABLE)
        except Exception as error:
            # Exhausted memory, or a bug that these sequences bring out: others may well be served.
            self._num_failed_in_a_row += 1
            is_lost = is_device_lost(error)
            is_fatal = is_lost or self._num_failed_in_a_row >= MAX_FAILED_IN_A_ROW
            logger.exception("a step of %d sequences failed%s", len(plan.chunks), "; the engine stops" * is_fatal)
            return StepFailed(_told(error), is_fatal, FinishReason.UNAVAILABLE if is_lost else FinishReason.ERROR)
        self._num_failed_in_a_row = 0
        return StepDone(result)

    def _take_inputs(self, is_idle: bool) -> list[_Input]:
        """Return all inputs that are there; an idle engine waits a while for the first."""
        inputs: list[_Input] = []
        try:
            if is_idle:
                inputs.append(self._inbox.get(timeout=_IDLE_WAIT_S))
            while True:
                inputs.append(self._inbox.get_nowait())
        except queue.Empty:
            return inputs

    def _act(self, actions: list[Action]) -> StepPlan | None:
        """Tell the events of all `actions` in one call; return the step to run, if any."""
        events = [event for action in actions if isinstance(action, Emit) for event in action.events]
        self._forget_ended(events)
        self._stats = self._engine.stats(self._clock.now_s())
        self._tell(events)
        for action in actions:
            if isinstance(action, Prepare) and self._compiler is not None:
                self._compiler.submit(action.request, action.constraint, self._put)
        return next((action.plan for action in actions if isinstance(action, RunStep)), None)

    def _forget_ended(self, events: list[TokenEvent]) -> None:
        with self._lock:
            for event in events:
                request = self._inside.get(event.sequence_id)
                if event.finish_reason is not None and request is not None and request.attempt == event.attempt:
                    del self._inside[event.sequence_id]
                    self._aborted.discard(event.sequence_id)

    def _tell(self, events: list[TokenEvent]) -> None:
        if not events:
            return
        try:
            self.on_step(events)
        except Exception:
            logger.exception("on_step failed; %d events are lost", len(events))

    def _answer(self, check: _Check) -> None:
        try:
            self._engine.check_integrity()
        except AssertionError as error:
            check.error = error
        check.is_done.set()

    def _give_up(self, reason: str) -> None:
        """Refuse new sequences, and end those that are still known with an error."""
        with self._lock:
            self._stopped_because = reason
            lost = [_lost(request, reason) for request in self._inside.values()]
            self._inside.clear()
        self._tell(lost)


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _lost(request: SequenceRequest, reason: str) -> TokenEvent:
    return TokenEvent(
        sequence_id=request.sequence_id,
        attempt=request.attempt,
        index=request.num_released,
        token_ids=(),
        finish_reason=FinishReason.UNAVAILABLE,
        error=reason,
    )


def _drop(events: list[TokenEvent]) -> None:
    """Tell nobody."""
