"""What the host does in a step does not grow with what the sequences have said: every Python and C call is counted."""

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch

from cluster.engine.blocks import BlockCount, BlockGeometry
from cluster.engine.engine import Engine
from cluster.engine.limits import EngineLimits
from cluster.engine.model_runner import build_batch
from cluster.engine.scheduler import StepLimits
from cluster.engine.speculate import SpeculationLimits
from cluster.engine.step import Admit, RunStep, StepDone, StepPlan, StepResult
from model.sampler import sample
from tests.cluster.engine.driver import request

VOCAB_SIZE = 50
BLOCK_TOKENS = 16
PENALIZED: dict[str, Any] = {"frequency_penalty": 0.1, "repetition_penalty": 1.01, "stop": ("zzz",)}


def num_calls(work: Callable[[], object]) -> int:
    """Return how many functions `work` calls, those written in C included."""
    count = 0

    def note(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal count
        count += event in {"call", "c_call"}

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(before)
    return count


class Steps:
    """An engine whose model says 1, 2, 3, 1, 2, 3, … whatever it is asked."""

    def __init__(self, num_sequences: int, num_prompt: int) -> None:
        """Compute all prompts; every sequence is penalized, stopped by strings, and guesses ahead.

        The blocks are just enough for these sequences.
        """
        geometry = BlockGeometry(BLOCK_TOKENS, window=32)
        size = num_sequences * geometry.num_blocks(num_prompt + 200) + 1
        limits = EngineLimits(
            StepLimits(num_sequences * num_prompt, num_sequences + 1),
            max_waiting_sequences=100,
            max_context_tokens=num_prompt + 200,
            vocab_size=VOCAB_SIZE,
            eos_ids=(0,),
            geometry=geometry,
            num_blocks=BlockCount(size, size),
            speculation=SpeculationLimits(max_draft_tokens=4, ngram_tokens=3, row_cost_fraction=0.3),
        )
        self.engine = Engine(limits)
        self.plan: StepPlan | None = None
        for number in range(num_sequences):
            prompt = [token % VOCAB_SIZE for token in range(num_prompt)]
            self.on(Admit(request(f"s{number}", prompt, max_tokens=190, **PENALIZED)))
        for _ in range(30):
            self.step()

    def on(self, event: Admit | StepDone) -> None:
        """Give the engine an event."""
        for action in self.engine.on(event, 0.0):
            self.plan = action.plan if isinstance(action, RunStep) else self.plan

    def step(self) -> None:
        """Do all that the host does in a step."""
        plan = self.plan
        assert plan is not None
        batch = build_batch(plan)
        logits = torch.zeros(len(plan.sample_rows), VOCAB_SIZE)
        logits[torch.arange(batch.logit_rows.size), torch.from_numpy(batch.token_ids[batch.logit_rows] % 3 + 1)] = 90.0
        self.on(StepDone(StepResult(tuple(sample(logits, plan.sample_rows)))))


def calls_of_steps(num_sequences: int, num_prompt: int) -> int:
    """Return the calls of 8 steps, among them some that begin a block."""
    steps = Steps(num_sequences, num_prompt)
    return num_calls(lambda: [steps.step() for _ in range(8)])


def test_a_step_takes_as_many_calls_in_a_long_text_as_in_a_short_one() -> None:
    short, long = (calls_of_steps(2, num_prompt) for num_prompt in (64, 64 + 200 * BLOCK_TOKENS))
    assert long == short


def test_a_waiting_prompt_costs_no_calls_by_its_length() -> None:
    """17 blocks; the running sequence has 6 or 7 of them, and the prompts want 13 and 16."""

    def calls(num_waiting_tokens: int) -> int:
        steps = Steps(1, 64)
        steps.on(Admit(request("waits", [7] * num_waiting_tokens)))
        steps.step()
        assert steps.engine.stats(0.0).num_waiting == 1
        return num_calls(steps.step)

    assert calls(250) == calls(200)


def test_negative_control_counting_a_text_afresh_is_seen() -> None:
    """Texts of 64 and of 640 tokens, read token by token."""
    short, long = (num_calls(lambda size=size: [abs(token) for token in range(size)]) for size in (64, 640))
    assert long - short == 576
