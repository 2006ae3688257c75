"""ResumeGate: how many sequences of one edge may have their prompts computed anew at the same time."""

import asyncio

from router.inbox import Subscription


class ResumeGate:
    """Lets few resumes compute their prompts at once: a dead replica's sequences are no stampede."""

    def __init__(self, max_concurrent: int) -> None:
        """Let `max_concurrent` in."""
        self._places = asyncio.Semaphore(max_concurrent)
        self._inside: set[Subscription] = set()

    async def enter(self, subscription: Subscription) -> None:
        """Wait for a place."""
        await self._places.acquire()
        self._inside.add(subscription)

    async def wait_for_room(self) -> None:
        """Return once there is a place, without taking it."""
        async with self._places:
            return

    def leave(self, subscription: Subscription) -> None:
        """Give the place back, if there is one."""
        if subscription in self._inside:
            self._inside.remove(subscription)
            self._places.release()
