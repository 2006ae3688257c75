"""A required call: the model reasons, its call is begun for it, and to the client it is one turn."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

import pytest

from cluster.engine.sequence import SequenceRequest, TokenEvent
from router.generation import Generation
from router.harmony.conversation import Conversation, FunctionTool, ToolMode, UserTurn
from router.harmony.deltas import CallBegun, CallDelta, ReasoningDelta
from router.requests import ChatRequest, ChatUpdate, Finish, Options, Usage
from router.service import InferenceService
from tests.router.fakes.hand_backend import HandBackend
from tests.router.fakes.hand_server import TOKENIZER, hand_service
from tests.router.fakes.scripts import turn

F, G = FunctionTool("f"), FunctionTool("g")
PLAIN = Options()


class TwoStageBackend(HandBackend):
    """Gives `first` to a sequence, and `second` to what resumes it, with positions that go on."""

    def __init__(self, first: list[int], second: list[int], delay_s: float = 0.0) -> None:
        super().__init__(first, delay_s=delay_s)
        self._second = second

    async def generate(self, request: SequenceRequest, timeout_s: float) -> AsyncGenerator[TokenEvent, None]:
        if request.num_released:
            self.default = self._second
        async with aclosing(super().generate(request, timeout_s)) as events:
            async for event in events:
                num_cached = 5 if request.num_released else 2
                yield replace(event, index=event.index + request.num_released, num_cached=num_cached)


def answered(
    backend: HandBackend, functions: tuple[FunctionTool, ...] = (F,), options: Options = PLAIN
) -> tuple[list[ChatUpdate], Usage]:
    """Return the updates and the usage of a request that requires a call."""
    service = hand_service(backend)
    conversation = Conversation((UserTurn("Hi"),), functions, tool_mode=ToolMode.REQUIRED)

    async def work() -> tuple[list[ChatUpdate], Usage]:
        generation = await service.chat(ChatRequest(conversation, options))
        async with generation:
            return [update async for update in generation], generation.usage

    result = asyncio.run(asyncio.wait_for(work(), 20))
    assert backend.num_open == 0
    assert service._admission.num_running == 0
    return result


def calls_of(updates: list[ChatUpdate]) -> list[str]:
    """Return each call as name(arguments)."""
    calls: list[str] = []
    for update in updates:
        for delta in update.deltas:
            if isinstance(delta, CallBegun):
                calls.append(f"{delta.name} ")
            elif isinstance(delta, CallDelta):
                calls[-1] += delta.text
    return calls


def reasoning_of(updates: list[ChatUpdate]) -> str:
    return "".join(delta.text for update in updates for delta in update.deltas if isinstance(delta, ReasoningDelta))


def test_the_model_reasons_and_then_writes_the_arguments() -> None:
    backend = TwoStageBackend(turn("I call f.<|end|>"), turn('{"a": 1}<|call|>'))

    updates, usage = answered(backend)

    assert reasoning_of(updates) == "I call f."
    assert calls_of(updates) == ['f {"a": 1}']
    assert [update.finish for update in updates if update.finish] == [Finish.TOOL_CALLS]
    assert usage.num_completion == len(turn("I call f.<|end|>")) + len(turn('{"a": 1}<|call|>'))
    assert usage.num_reasoning == len(turn("I call f."))
    assert usage.num_cached == 2


def test_the_second_stage_is_a_resume_of_the_first() -> None:
    backend = TwoStageBackend(turn("Hm.<|end|>"), turn("{}<|call|>"))

    answered(backend, options=Options(seed=3, max_tokens=70))

    first, second = backend.requests
    header = "<|start|>assistant<|channel|>commentary to=functions.f <|constrain|>json<|message|>"
    released = tuple(turn(f"Hm.<|end|>{header}"))
    assert second.prompt_ids == first.prompt_ids + released
    assert second.num_released == len(released)
    assert (second.params.seed, second.params.max_tokens) == (3, 70)
    assert first.sequence_id != second.sequence_id


@pytest.mark.parametrize("ending", ["<|return|>", "<|call|>"])
def test_a_turn_that_ends_early_still_calls(ending: str) -> None:
    backend = TwoStageBackend(turn(f"Hm.{ending}"), turn("{}<|call|>"))

    updates, _ = answered(backend)

    assert calls_of(updates) == ["f {}"]
    assert "Hm.<|end|><|start|>assistant" in TOKENIZER.decode(backend.requests[1].prompt_ids)


def test_among_several_tools_the_model_writes_the_name() -> None:
    backend = TwoStageBackend(turn("Hm.<|end|>"), turn(".g <|constrain|>json<|message|>{}<|call|>"))

    updates, _ = answered(backend, (F, G))

    assert calls_of(updates) == ["g {}"]


def test_reasoning_that_takes_all_tokens_is_cut_truthfully() -> None:
    backend = TwoStageBackend(turn("Hm hm hm hm hm.<|end|>"), turn("{}<|call|>"))

    updates, usage = answered(backend, options=Options(max_tokens=3))

    assert calls_of(updates) == []
    assert updates[-1].finish is Finish.LENGTH
    assert usage.num_completion == 3
    assert len(backend.requests) == 1


def test_a_header_that_takes_all_tokens_is_cut_truthfully() -> None:
    backend = TwoStageBackend(turn("Hm.<|end|>"), turn("{}<|call|>"))

    updates, _ = answered(backend, options=Options(max_tokens=8))

    assert calls_of(updates) == ["f "]
    assert updates[-1].finish is Finish.LENGTH
    assert len(backend.requests) == 1


@pytest.mark.parametrize("num_read", [1, 4, 9])
def test_leaving_aborts_whichever_stage_runs(num_read: int) -> None:
    backend = TwoStageBackend(turn("Hm hm hm.<|end|>"), turn('{"a": [1, 2, 3, 4, 5]}<|call|>'), delay_s=0.01)
    service = hand_service(backend)
    conversation = Conversation((UserTurn("Hi"),), (F,), tool_mode=ToolMode.REQUIRED)

    async def work() -> None:
        generation: Generation[ChatUpdate] = await service.chat(ChatRequest(conversation))
        for _ in range(num_read):
            await anext(generation)
        await generation.aclose()
        assert backend.num_open == 0

    asyncio.run(asyncio.wait_for(work(), 20))
    assert len(backend.aborted) == 1
    assert _is_idle(service)


def _is_idle(service: InferenceService) -> bool:
    return service._admission.num_running == 0
