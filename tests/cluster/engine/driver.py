"""Driving an engine by hand: no thread, one event at a time, its books checked after each."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from cluster.engine.blocks import BlockCount, BlockGeometry
from cluster.engine.engine import Engine
from cluster.engine.limits import EngineLimits
from cluster.engine.model_runner import ModelRunner
from cluster.engine.scheduler import StepLimits
from cluster.engine.sequence import FinishReason, SequenceRequest, TokenEvent
from cluster.engine.speculate import Drafter
from cluster.engine.step import Abort, Admit, Emit, Event, RunStep, StepDone, StepFailed, StepPlan
from model.moe import HandExperts
from model.sampling_params import SamplingParams
from model.tokenizer import Tokenizer
from tests.cluster.engine.hand_transformer import BLOCK_TOKENS, VOCAB_SIZE, WINDOW, HandTransformer, hand_cache

EOS = 96


def hand_limits(**changes: Any) -> EngineLimits:
    """Return limits for the hand model: 40 full and 40 sliding blocks of 4 tokens, 100 tokens of context."""
    fields: dict[str, Any] = {
        "step": StepLimits(
            max_step_tokens=changes.pop("max_step_tokens", 16), max_running_sequences=changes.pop("max_running", 8)
        ),
        "max_waiting_sequences": 100,
        "max_context_tokens": 100,
        "vocab_size": VOCAB_SIZE,
        "eos_ids": (EOS,),
        "geometry": BlockGeometry(BLOCK_TOKENS, WINDOW),
        "num_blocks": BlockCount(41, 41),
        **changes,
    }
    return EngineLimits(**fields)


def request(
    name: str, prompt: list[int], *, num_released: int = 0, attempt: int = 0, priority: int = 0, **fields: Any
) -> SequenceRequest:
    """Return a greedy request for 5 tokens past any stop id; `fields` change its sampling parameters."""
    values: dict[str, Any] = {"max_tokens": 5, "seed": 1, "temperature": 0.0, "ignore_eos": True, **fields}
    return SequenceRequest(name, tuple(prompt), SamplingParams(**values), num_released, attempt, priority)


@dataclass
class Driver:
    """An engine with the hand model, stepped by the test."""

    limits: EngineLimits = field(default_factory=hand_limits)
    transformer: HandTransformer = field(default_factory=HandTransformer)
    tokenizer: Any = None
    new_drafter: Callable[[], Drafter | None] | None = None
    events: list[TokenEvent] = field(default_factory=list[TokenEvent])
    plan: StepPlan | None = None
    now_s: float = 0.0

    def __post_init__(self) -> None:
        self.engine = Engine(self.limits, self.tokenizer or Tokenizer, self.new_drafter)
        blocks = self.limits.num_blocks
        self.runner = ModelRunner(self.transformer, hand_cache(blocks.full, blocks.sliding), HandExperts())

    def on(self, event: Event) -> list[TokenEvent]:
        """Give the engine an event; return what it tells because of it."""
        told: list[TokenEvent] = []
        for action in self.engine.on(event, self.now_s):
            if isinstance(action, Emit):
                told.extend(action.events)
            if isinstance(action, RunStep):
                assert self.plan is None, "a second step was asked for while one is under way"
                self.plan = action.plan
        self.engine.check_integrity()
        self.events.extend(told)
        return told

    def admit(self, *requests: SequenceRequest) -> None:
        """Admit requests, in order."""
        for one in requests:
            self.limits.check_request(one)
            self.on(Admit(one))

    def abort(self, name: str, attempt: int | None = None) -> list[TokenEvent]:
        """Abort a sequence."""
        return self.on(Abort(name, attempt))

    def step(self) -> list[TokenEvent]:
        """Run the step under way; return its events."""
        plan, self.plan = self.plan, None
        assert plan is not None, "the engine is idle"
        return self.on(StepDone(self.runner.run(plan)))

    def fail(self, error: str = "lost", is_fatal: bool = False) -> list[TokenEvent]:
        """Let the step under way fail."""
        self.plan = None
        return self.on(StepFailed(error, is_fatal))

    def finish(self) -> None:
        """Run until nothing is left, and see that all blocks have come back."""
        for _ in range(10_000):
            if self.plan is None:
                break
            self.step()
        assert self.plan is None, "the engine does not come to an end"
        stats = self.engine.stats(self.now_s)
        assert (stats.num_running, stats.num_waiting) == (0, 0)
        assert stats.num_free_blocks == stats.num_blocks, "blocks have leaked"

    def tokens(self, name: str) -> list[int]:
        """Return the tokens that a sequence was told, seeing that none is missing or told twice."""
        own = [event for event in self.events if event.sequence_id == name]
        tokens: list[int] = []
        for event in own:
            assert event.index == own[0].index + len(tokens), (name, event.index, len(tokens))
            tokens.extend(event.token_ids)
        return tokens

    def ending(self, name: str) -> TokenEvent:
        """Return the one last event of a sequence."""
        own = [event for event in self.events if event.sequence_id == name]
        assert [event.finish_reason is None for event in own] == [True] * (len(own) - 1) + [False], own
        return own[-1]

    def finish_reason(self, name: str) -> FinishReason | None:
        """Return how a sequence ended."""
        return self.ending(name).finish_reason


def run_alone(one: SequenceRequest, **limits: Any) -> list[int]:
    """Return the tokens of a request that has an engine for itself."""
    driver = Driver(hand_limits(**limits))
    driver.admit(one)
    driver.finish()
    return driver.tokens(one.sequence_id)
