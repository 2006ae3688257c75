"""Inbox: from the thread that brings token events to the tasks that wait for them.

Events come once per engine step for many sequences at once; each event loop is woken once per step, not once per
sequence. A subscription holds at most as many events as its sequence has tokens, so a slow reader is bounded by
`max_tokens`.
"""

import asyncio
import threading
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, Iterable

from cluster.engine.sequence import TokenEvent
from cluster.errors import EngineStopped
from router.errors import DeadlinePassed

_Item = TokenEvent | Exception


class Subscription:
    """One sequence's events, read by one task. Lives in the event loop that opened it."""

    def __init__(self, sequence_id: str, attempt: int, loop: asyncio.AbstractEventLoop) -> None:
        """Wait for the events of one attempt at a sequence."""
        self.sequence_id = sequence_id
        self.attempt = attempt
        self.loop = loop
        self.source: str | None = None
        """Which engine's stream brings the events, once chosen."""
        self._items: deque[_Item] = deque()
        self._waiter: asyncio.Future[None] | None = None

    async def events(self, timeout_s: float, deadline_s: float | None = None) -> AsyncGenerator[TokenEvent, None]:
        """Yield events up to the one with a finish reason.

        Raises what the subscription was failed with, or DeadlinePassed after `timeout_s`; a request that began
        earlier gives its own `deadline_s`, in its loop's time.
        """
        deadline_s = self.loop.time() + timeout_s if deadline_s is None else deadline_s
        # One timer for all waits: a deadline around each would cost as much as all else that is done with a token.
        late = DeadlinePassed(f"The request ran longer than {timeout_s:g} s and was ended.")
        timer = self.loop.call_at(deadline_s, self.put, late)
        try:
            while True:
                item = await self._next()
                if isinstance(item, Exception):
                    raise item
                yield item
                if item.finish_reason is not None:
                    return
        finally:
            timer.cancel()

    def put(self, item: _Item) -> None:
        """Append an event or a failure; from the subscription's own loop."""
        self._items.append(item)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _next(self) -> _Item:
        if not self._items:
            self._waiter = self.loop.create_future()
            await self._waiter
        return self._items.popleft()


class Inbox:
    """All open subscriptions of a process. Thread-safe."""

    def __init__(self) -> None:
        """Start empty."""
        self._lock = threading.Lock()
        self._open: dict[str, Subscription] = {}

    def open(self, sequence_id: str, attempt: int) -> Subscription:
        """Subscribe to a sequence from the running event loop."""
        subscription = Subscription(sequence_id, attempt, asyncio.get_running_loop())
        with self._lock:
            assert sequence_id not in self._open, f"sequence {sequence_id} is subscribed to already"
            self._open[sequence_id] = subscription
        return subscription

    def close(self, subscription: Subscription) -> None:
        """End a subscription; what comes later for it is dropped."""
        with self._lock:
            self._open.pop(subscription.sequence_id, None)

    def deliver(self, events: Iterable[TokenEvent]) -> None:
        """Hand the events of one step over, from any thread; those that nobody waits for are dropped."""
        self._hand_over((event.sequence_id, event.attempt, event) for event in events)

    def fail_source(self, source: str, reason: str) -> None:
        """Fail all subscriptions that wait for a source whose stream broke, from any thread."""
        with self._lock:
            lost = [subscription for subscription in self._open.values() if subscription.source == source]
        self._hand_over((one.sequence_id, one.attempt, EngineStopped(reason)) for one in lost)

    def fail(self, subscription: Subscription, error: Exception) -> None:
        """Fail one subscription, from any thread."""
        self._hand_over([(subscription.sequence_id, subscription.attempt, error)])

    @property
    def num_open(self) -> int:
        """Return how many sequences are subscribed to."""
        with self._lock:
            return len(self._open)

    def _hand_over(self, items: Iterable[tuple[str, int, _Item]]) -> None:
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[Subscription, _Item]]] = defaultdict(list)
        with self._lock:
            for sequence_id, attempt, item in items:
                subscription = self._open.get(sequence_id)
                if subscription is not None and subscription.attempt == attempt:
                    by_loop[subscription.loop].append((subscription, item))
        for loop, batch in by_loop.items():
            if not loop.is_closed():
                loop.call_soon_threadsafe(_put_all, batch)


def _put_all(batch: list[tuple[Subscription, _Item]]) -> None:
    for subscription, item in batch:
        subscription.put(item)
