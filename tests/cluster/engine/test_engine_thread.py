"""The engine on its thread: admission from outside, one call a step, failures and the end."""

import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
import torch

from cluster.engine.engine import Engine
from cluster.engine.engine_thread import EngineThread
from cluster.engine.limits import EngineLimits
from cluster.engine.model_runner import ModelRunner
from cluster.engine.sequence import FinishReason, TokenEvent
from cluster.engine.step import StepPlan, StepResult
from cluster.errors import ContextOverflow, EngineError, EngineStopped, QueueFull, WorkerLost
from model.moe import HandExperts
from tests.cluster.engine.driver import hand_limits, request
from tests.cluster.engine.hand_transformer import HandTransformer, hand_cache, hand_continuation

WAIT_S = 20.0


@dataclass
class Gate:
    """A runner whose steps wait until the test lets them pass, while it is closed."""

    runner: ModelRunner
    is_open: threading.Event = field(default_factory=threading.Event)
    has_begun: threading.Event = field(default_factory=threading.Event)
    error: BaseException | None = None

    def run(self, plan: StepPlan) -> StepResult:
        """Return what the runner gives, or raise the error that was set."""
        self.has_begun.set()
        assert self.is_open.wait(WAIT_S), "the test forgot to open the gate"
        if self.error is not None:
            raise self.error
        return self.runner.run(plan)


@dataclass
class Inbox:
    """Collects what the engine tells, call by call."""

    calls: list[list[TokenEvent]] = field(default_factory=list[list[TokenEvent]])
    news: threading.Condition = field(default_factory=threading.Condition)

    def on_step(self, events: list[TokenEvent]) -> None:
        """Take the events of a step."""
        with self.news:
            self.calls.append(events)
            self.news.notify_all()

    def wait_for(self, is_met: Callable[[list[TokenEvent]], bool]) -> list[TokenEvent]:
        """Return all events once they meet a condition."""
        with self.news:
            assert self.news.wait_for(lambda: is_met(self.events()), WAIT_S), self.calls
            return self.events()

    def events(self) -> list[TokenEvent]:
        """Return all events so far."""
        return [event for call in self.calls for event in call]

    def wait_for_end(self, *names: str) -> dict[str, TokenEvent]:
        """Return the last event of each sequence once all have ended."""

        def endings(events: list[TokenEvent]) -> dict[str, TokenEvent]:
            return {event.sequence_id: event for event in events if event.finish_reason is not None}

        return endings(self.wait_for(lambda events: set(names) <= set(endings(events))))

    def tokens(self, name: str) -> list[int]:
        """Return the tokens of a sequence."""
        return [token for event in self.events() if event.sequence_id == name for token in event.token_ids]


@contextmanager
def _engine(limits: EngineLimits | None = None, is_open: bool = True) -> Generator[tuple[EngineThread, Inbox, Gate]]:
    """Run an engine; at the end its books balance and its thread is gone."""
    limits = limits or hand_limits()
    runner = ModelRunner(
        HandTransformer(), hand_cache(limits.num_blocks.full, limits.num_blocks.sliding), HandExperts()
    )
    gate, inbox = Gate(runner), Inbox()
    if is_open:
        gate.is_open.set()
    engine = EngineThread(Engine(limits), gate, inbox.on_step)
    engine.start()
    try:
        yield engine, inbox, gate
    finally:
        gate.is_open.set()
        engine.stop(WAIT_S)
        engine.check_integrity()
    assert "engine" not in [thread.name for thread in threading.enumerate()]


def test_a_sequence_gets_its_tokens_and_one_last_event() -> None:
    with _engine() as (engine, inbox, _):
        engine.admit(request("a", [1, 2, 3]))
        ending = inbox.wait_for_end("a")["a"]
        assert ending.finish_reason is FinishReason.LENGTH
        assert inbox.tokens("a") == hand_continuation([1, 2, 3], 5)
        engine.check_integrity()
        stats = engine.stats()
        assert (stats.num_running, stats.num_tokens) == (0, 5)


def test_all_events_of_a_step_come_in_one_call() -> None:
    with _engine(is_open=False) as (engine, inbox, gate):
        engine.admit(request("a", [1], max_tokens=3))
        assert gate.has_begun.wait(WAIT_S)
        for name in ("b", "c", "d"):
            engine.admit(request(name, [2], max_tokens=3))
        gate.is_open.set()
        inbox.wait_for_end("a", "b", "c", "d")
    assert [len(call) for call in inbox.calls] == [1, 4, 4, 3]


def test_many_threads_may_admit_and_abort_at_once() -> None:
    names = [f"s{n}" for n in range(40)]

    def client(engine: EngineThread, name: str) -> None:
        engine.admit(request(name, [len(name), int(name[1:])], max_tokens=20))
        if int(name[1:]) % 3 == 0:
            engine.abort(name)

    with _engine() as (engine, inbox, _):
        threads = [threading.Thread(target=client, args=(engine, name)) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT_S)
        endings = inbox.wait_for_end(*names)
        for name in names:
            expected = hand_continuation([len(name), int(name[1:])], 20)
            tokens = inbox.tokens(name)
            assert tokens == expected[: len(tokens)]
            assert endings[name].finish_reason is FinishReason.ABORT or tokens == expected
        engine.check_integrity()


def test_an_abort_during_a_step_ends_the_sequence_with_that_step() -> None:
    with _engine(is_open=False) as (engine, inbox, gate):
        engine.admit(request("a", [1] * 20, max_tokens=50))
        assert gate.has_begun.wait(WAIT_S)
        engine.abort("a", attempt=7)
        engine.abort("a")
        engine.abort("a")
        gate.is_open.set()
        assert inbox.wait_for_end("a")["a"].finish_reason is FinishReason.ABORT
        engine.check_integrity()
        assert engine.stats().num_used_blocks == (0, 0)
        assert len(inbox.events()) == 1


def test_the_end_of_an_older_attempt_is_not_the_end_of_the_newer() -> None:
    with _engine(is_open=False) as (engine, inbox, gate):

        def abort_the_newer(events: list[TokenEvent]) -> None:
            inbox.on_step(events)
            if any(event.attempt == 1 and event.finish_reason is None for event in events):
                engine.abort("a")

        engine.on_step = abort_the_newer
        engine.admit(request("a", [1], max_tokens=90))
        assert gate.has_begun.wait(WAIT_S)
        engine.admit(request("a", [2], max_tokens=90, attempt=1))
        gate.is_open.set()
        events = inbox.wait_for(_has_two_ends)
    endings = [(event.attempt, event.finish_reason) for event in events if event.finish_reason is not None]
    assert endings == [(0, FinishReason.ABORT), (1, FinishReason.ABORT)]


def _has_two_ends(events: list[TokenEvent]) -> bool:
    return sum(event.finish_reason is not None for event in events) == 2


def test_what_is_refused_is_refused_at_once() -> None:
    limits = hand_limits(max_running=1, max_waiting_sequences=1)
    with _engine(limits, is_open=False) as (engine, inbox, gate):
        with pytest.raises(ContextOverflow):
            engine.admit(request("a", [1] * 100))
        engine.admit(request("a", [1]))
        with pytest.raises(EngineError, match="here already, at attempt 0"):
            engine.admit(request("a", [1]))
        engine.admit(request("b", [1]))
        with pytest.raises(QueueFull, match="2 sequences run or wait"):
            engine.admit(request("c", [1]))
        engine.admit(request("b", [1], attempt=1))
        gate.is_open.set()
        inbox.wait_for(lambda events: sum(event.finish_reason is not None for event in events) == 3)
        engine.admit(request("c", [1]))
        inbox.wait_for_end("c")


def test_a_failed_step_is_told_and_the_engine_goes_on() -> None:
    with _engine(is_open=False) as (engine, inbox, gate):
        engine.admit(request("a", [1]))
        assert gate.has_begun.wait(WAIT_S)
        gate.error = WorkerLost("worker 3 does not answer")
        gate.is_open.set()
        assert inbox.wait_for_end("a")["a"].error == "WorkerLost: worker 3 does not answer"
        gate.error = None
        engine.admit(request("a", [1]))
        inbox.wait_for(lambda events: len(events) == 6)
        assert inbox.tokens("a") == hand_continuation([1], 5)
        assert engine.stopped_because is None


@pytest.mark.parametrize("error", [AssertionError("broken"), IndexError("odd"), RuntimeError("out of memory")])
def test_a_step_that_fails_ends_its_sequences_and_others_are_served(error: Exception) -> None:
    with _engine(hand_limits(max_running=1), is_open=False) as (engine, inbox, gate):
        engine.admit(request("a", [1]))
        assert gate.has_begun.wait(WAIT_S)
        gate.error = error
        gate.is_open.set()
        assert inbox.wait_for_end("a")["a"].finish_reason is FinishReason.ERROR
        gate.error = None
        engine.admit(request("b", [1]))
        inbox.wait_for_end("b")
        assert inbox.tokens("b") == hand_continuation([1], 5)
        assert engine.stopped_because is None


def _wait_until_stopped(engine: EngineThread) -> None:
    deadline = time.monotonic() + WAIT_S
    while engine.stopped_because is None and time.monotonic() < deadline:
        time.sleep(0.01)


def test_a_bug_in_every_step_stops_the_engine_and_everybody_is_told() -> None:
    with _engine(hand_limits(max_running=1), is_open=False) as (engine, inbox, gate):
        engine.admit(request("a", [1]))
        assert gate.has_begun.wait(WAIT_S)
        for name in "bcd":
            engine.admit(request(name, [1]))
        gate.error = KeyError("k")
        gate.is_open.set()
        endings = inbox.wait_for_end("a", "b", "c", "d")
        assert {endings[name].finish_reason for name in "abc"} == {FinishReason.ERROR}
        assert endings["d"].finish_reason is FinishReason.UNAVAILABLE, "it was never tried"
        _wait_until_stopped(engine)
        with pytest.raises(EngineStopped, match="KeyError"):
            engine.admit(request("e", [1]))


def test_workers_that_are_away_never_stop_the_engine() -> None:
    with _engine(hand_limits(max_running=1), is_open=False) as (engine, inbox, gate):
        for name in "abcdef":
            engine.admit(request(name, [1]))
        gate.error = WorkerLost("worker 3 does not answer")
        gate.is_open.set()
        endings = inbox.wait_for_end(*"abcdef")
        assert {ending.finish_reason for ending in endings.values()} == {FinishReason.UNAVAILABLE}
        assert engine.stopped_because is None


@pytest.mark.parametrize("kind", [RuntimeError, *filter(None, [getattr(torch, "AcceleratorError", None)])])
def test_a_lost_device_stops_the_engine_at_once(kind: type[Exception]) -> None:
    with _engine(hand_limits(max_running=1), is_open=False) as (engine, inbox, gate):
        engine.admit(request("a", [1]))
        assert gate.has_begun.wait(WAIT_S)
        engine.admit(request("b", [1]))
        gate.error = kind("CUDA error: an illegal memory access was encountered")
        gate.is_open.set()
        endings = inbox.wait_for_end("a", "b")
        assert {endings[name].finish_reason for name in "ab"} == {FinishReason.UNAVAILABLE}, (
            "elsewhere they may do well"
        )
        _wait_until_stopped(engine)
        with pytest.raises(EngineStopped, match="illegal memory access"):
            engine.admit(request("c", [1]))


def test_stopping_ends_every_sequence_with_an_error() -> None:
    with _engine(hand_limits(max_running=1), is_open=False) as (engine, inbox, gate):
        engine.admit(request("a", [1], max_tokens=90))
        assert gate.has_begun.wait(WAIT_S)
        engine.admit(request("b", [1]))
        with pytest.raises(EngineStopped, match=r"did not end within 0\.1 s"):
            engine.stop(0.1)
        gate.is_open.set()
        engine.stop(WAIT_S)
        endings = inbox.wait_for_end("a", "b")
        assert {ending.error for ending in endings.values()} == {"the engine was stopped"}
        with pytest.raises(EngineStopped, match="was stopped"):
            engine.admit(request("c", [1]))


def test_an_engine_that_never_started_can_be_stopped() -> None:
    limits = hand_limits()
    engine = EngineThread(Engine(limits), Gate(ModelRunner(HandTransformer(), hand_cache(41, 41), HandExperts())))
    engine.stop()
    with pytest.raises(EngineStopped):
        engine.admit(request("a", [1]))


def test_a_listener_that_fails_does_not_stop_the_engine() -> None:
    with _engine() as (engine, inbox, _):

        def fail_once(events: list[TokenEvent]) -> None:
            engine.on_step = inbox.on_step
            raise RuntimeError("listener")

        engine.on_step = fail_once
        engine.admit(request("a", [1]))
        inbox.wait_for_end("a")
        assert inbox.tokens("a") == hand_continuation([1], 5)[1:]
