"""SupervisorStatus: the last known status of the cluster, and one question at a time for a newer one.

The supervisor may be away, and what finds it may be slow: neither may hold up the event loop, whose streams go on
without them. So the supervisor is looked up in a thread, once, and again only when it is lost; and who asks here never
waits long if there is an answer already.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from cluster.clock import MonotonicClock
from cluster.cluster_status import ClusterStatus, newest_known

ANSWER_TIMEOUT_S = 2.0
"""How long the supervisor may take; and how long the first who ask here wait for it."""
PATIENCE_S = 0.2
"""How long others wait for a newer status than the last one."""
TTL_S = 0.25

logger = logging.getLogger(__name__)

Ask = Callable[[], Awaitable[ClusterStatus]]


class SupervisorStatus:
    """The supervisor's status, asked a few times a second at most; while it is away, the last one holds."""

    def __init__(self, find: Callable[[], Ask], lost: tuple[type[Exception], ...]) -> None:
        """Look the supervisor up by `find`, which may block; errors of the classes `lost` say that it is not there."""
        self._find = find
        self._lost = lost
        self._clock = MonotonicClock()
        self._ask: Ask | None = None
        self._last: ClusterStatus | None = None
        self._refresh: asyncio.Task[None] | None = None
        self._began_s = self._ended_s = float("-inf")

    async def status(self) -> ClusterStatus | None:
        """Return the newest status to be had at once; None before the first answer."""
        now_s = self._clock.now_s()
        if self._refresh is None and now_s - self._ended_s >= TTL_S:
            self._began_s = now_s
            self._refresh = asyncio.create_task(self._renew())
        if self._refresh is not None:
            limit_s = ANSWER_TIMEOUT_S if self._last is None else PATIENCE_S
            await asyncio.wait({self._refresh}, timeout=max(0.0, self._began_s + limit_s - now_s))
        return self._last

    async def _renew(self) -> None:
        try:
            if self._ask is None:
                self._ask = await asyncio.to_thread(self._find)
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                self._last = newest_known(self._last, await self._ask())
        except TimeoutError:
            logger.warning("the supervisor does not answer in time; its last status holds")
        except self._lost as error:
            self._ask = None
            logger.warning("the supervisor is not there; its last status holds: %s", error)
        finally:
            self._ended_s = self._clock.now_s()
            self._refresh = None
