"""A subscription's waits: in order, ended by a deadline that costs one timer however many tokens come."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from typing import Any

import pytest

from cluster.engine.sequence import FinishReason, TokenEvent
from router.errors import DeadlinePassed
from router.inbox import Inbox


class CountingLoop(asyncio.SelectorEventLoop):
    """Counts the timers that are set."""

    num_timers = 0

    def call_at(self, when: float, callback: Callable[..., object], *args: Any, context: Any = None) -> Any:
        self.num_timers += 1
        return super().call_at(when, callback, *args, context=context)


def run(work: Coroutine[Any, Any, None]) -> int:
    """Run `work` and return how many timers it set."""
    loop = CountingLoop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(work)
        return loop.num_timers


def event(index: int, reason: FinishReason | None = None) -> TokenEvent:
    return TokenEvent("a", 0, index, (index,), finish_reason=reason)


def test_a_hundred_waits_set_one_timer() -> None:
    async def work() -> None:
        inbox = Inbox()
        subscription = inbox.open("a", 0)
        async with aclosing(subscription.events(60.0)) as events:
            for index in range(100):
                asyncio.get_running_loop().call_soon(inbox.deliver, [event(index)])
                assert (await anext(events)).index == index
        inbox.close(subscription)
        assert inbox.num_open == 0

    assert run(work()) == 1


def test_what_came_before_the_deadline_is_told_before_it() -> None:
    async def work() -> None:
        subscription = Inbox().open("a", 0)
        async with aclosing(subscription.events(0.02)) as events:
            subscription.put(event(0))
            assert (await anext(events)).index == 0
            subscription.put(event(1))
            await asyncio.sleep(0.05)
            assert (await anext(events)).index == 1
            with pytest.raises(DeadlinePassed, match=r"longer than 0\.02 s"):
                await anext(events)

    run(work())


def test_a_reader_that_leaves_while_it_waits_takes_its_timer_along() -> None:
    async def work() -> None:
        subscription = Inbox().open("a", 0)
        events = subscription.events(0.05)
        reader = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0.01)
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)
        await events.aclose()
        await asyncio.sleep(0.08)
        subscription.put(event(0, FinishReason.LENGTH))
        async with aclosing(subscription.events(60.0)) as again:
            assert [one.index async for one in again] == [0], "the old deadline has put nothing there"

    run(work())
