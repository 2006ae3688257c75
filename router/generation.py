"""Generation: one running request, as an async iterator of updates that whoever answers the client reads.

Ending, failing and leaving are one path: whichever way the iterator stops, the backend's generators are closed, which
aborts what still runs, and the place among the running requests is given back, once.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Generic, Self, TypeVar

from router.errors import answer_to
from router.requests import ChatUpdate, Started, TextUpdate, Usage

U = TypeVar("U", ChatUpdate, TextUpdate)
MAX_BUFFERED_UPDATES = 64
"""Between the choices of a request and its reader: a slow client holds its own choices up, nobody else's."""
OUTCOME_OK = "ok"
OUTCOME_LEFT = "cancelled"


def outcome_of(error: BaseException) -> str:
    """Return how an end by `error` is counted: the client left, or the HTTP status that it was told, as digits."""
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        return OUTCOME_LEFT
    return str(answer_to(error).status)


class Generation(Generic[U]):
    """Updates of all choices of a request, each choice's in order. Use it as an async context manager."""

    def __init__(
        self,
        started: Started,
        choices: Sequence[AsyncGenerator[U, None]],
        usage: Callable[[], Usage],
        on_end: Callable[[str], None],
    ) -> None:
        """Run `choices`; `on_end` is called once, with an outcome: ok, cancelled, or an error's status."""
        self.started = started
        self._usage = usage
        self._on_end = on_end
        self._has_ended = False
        self._source = choices[0] if len(choices) == 1 else _merged(choices)
        self._ready: deque[asyncio.Task[U]] = deque(maxlen=1)

    @property
    def usage(self) -> Usage:
        """Return the tokens so far; all of them once the iterator has ended."""
        return self._usage()

    async def begin(self, patience_s: float) -> bool:
        """Return True once the first update is there, or after `patience_s`: an early error can still be a status.

        Raises what the first update raises.
        """
        task = asyncio.ensure_future(anext(self._source))
        self._ready.append(task)
        done, _ = await asyncio.wait({task}, timeout=patience_s)
        if done and task.exception() is not None and not isinstance(task.exception(), StopAsyncIteration):
            await self._next()
        return True

    def __aiter__(self) -> AsyncIterator[U]:
        """Return itself."""
        return self

    async def __anext__(self) -> U:
        """Return the next update of any choice; raises the backend's errors."""
        return await self._next()

    async def __aenter__(self) -> Self:
        """Return itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop whatever still runs."""
        await self.aclose()

    async def aclose(self) -> None:
        """Stop whatever still runs; the engine is told at once."""
        while self._ready:
            task = self._ready.popleft()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await self._source.aclose()
        self._end(OUTCOME_LEFT)

    async def _next(self) -> U:
        try:
            return await (self._ready.popleft() if self._ready else anext(self._source))
        except StopAsyncIteration:
            self._end(OUTCOME_OK)
            raise
        except BaseException as error:
            self._end(outcome_of(error))
            raise

    def _end(self, outcome: str) -> None:
        if not self._has_ended:
            self._has_ended = True
            self._on_end(outcome)


async def _merged(choices: Sequence[AsyncGenerator[U, None]]) -> AsyncGenerator[U, None]:
    """Yield the updates of several choices as they come; the first error ends all."""
    queue: asyncio.Queue[U | BaseException | None] = asyncio.Queue(MAX_BUFFERED_UPDATES)
    tasks = [asyncio.create_task(_pump(choice, queue)) for choice in choices]
    try:
        num_running = len(tasks)
        while num_running:
            item = await queue.get()
            if item is None:
                num_running -= 1
            elif isinstance(item, BaseException):
                raise item
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pump(choice: AsyncGenerator[U, None], queue: asyncio.Queue[U | BaseException | None]) -> None:
    async with aclosing(choice):
        try:
            async for update in choice:
                await queue.put(update)
            await queue.put(None)
        except Exception as error:  # noqa: BLE001 - handed to the reader, which raises it
            await queue.put(error)
