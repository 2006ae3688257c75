"""HandOver: moves sequences away from attention replicas that are to go, while those still compute them.

    Serve routes to ──▶ routed() ──▶ leaving(): who runs where nobody is sent any more
                                          │ one by one, as the resume gate has room
                                          ▼
                     the call there is cancelled, the journal begins the next attempt elsewhere

Nothing is moved while there is nowhere to go: without another replica, or as long as one of other numerics could be
chosen, a sequence stays until its end, or until its replica's grace period is over.
"""

import asyncio
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cluster.engine.sequence import SequenceRequest
from cluster.errors import ReplicaLeaves
from router.inbox import Inbox, Subscription
from router.resume_gate import ResumeGate

NEXT_AFTER_S = 0.02
"""Between two moves: the sequence moved first takes its place at the gate meanwhile."""
_log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class Attempt:
    """One attempt at a choice."""

    request: SequenceRequest
    subscription: Subscription
    holder: "asyncio.Task[None] | None" = None
    """Keeps its call open."""
    fingerprint: str | None = None
    """Of the numerics at its replica, from when that may have taken the sequence."""
    is_moved: bool = False

    @property
    def is_held(self) -> bool:
        """Return whether a replica may have taken the sequence."""
        return self.fingerprint is not None


def leaving(attempts: Iterable[Attempt], routed: Mapping[str, str]) -> list[Attempt]:
    """Return the attempts that are to be moved: all that may go on elsewhere with the numerics that they have.

    `routed` gives the fingerprint of each replica that may be chosen by its address. Pure.
    """
    fingerprints = set(routed.values())
    return [
        one
        for one in attempts
        if not one.is_moved and one.subscription.source not in routed and fingerprints == {one.fingerprint}
    ]


class HandOver:
    """Knows the attempts of one edge. Lives on one event loop."""

    def __init__(self, inbox: Inbox, gate: ResumeGate) -> None:
        """Fail what is moved in `inbox`, no faster than `gate` lets it in elsewhere."""
        self._inbox = inbox
        self._gate = gate
        self._attempts: dict[Attempt, None] = {}
        self._routed: Mapping[str, str] = {}
        self._moving: asyncio.Task[None] | None = None

    def begin(self, attempt: Attempt) -> None:
        """Follow an attempt."""
        self._attempts[attempt] = None

    def end(self, attempt: Attempt) -> None:
        """Follow an attempt no more."""
        self._attempts.pop(attempt, None)

    def routed(self, replicas: Mapping[str, str]) -> None:
        """Take who may be chosen from now on: the fingerprint of each replica by its address."""
        self._routed = replicas
        self.look()

    def look(self) -> None:
        """Begin to move whatever is to be moved."""
        is_moving = self._moving is not None and not self._moving.done()
        if not is_moving and self._leaving():
            self._moving = asyncio.create_task(self._move())
            self._moving.add_done_callback(_log_failure)

    def _leaving(self) -> list[Attempt]:
        return leaving(self._attempts, self._routed)

    async def _move(self) -> None:
        while self._leaving():
            await self._gate.wait_for_room()
            still = self._leaving()  # much may have happened while there was no room
            if still:
                self._move_one(still[0])
                await asyncio.sleep(NEXT_AFTER_S)

    def _move_one(self, attempt: Attempt) -> None:
        """End an attempt at its replica and let the journal go on; its reader may be slow, the replica is not held."""
        attempt.is_moved = True
        source = attempt.subscription.source
        _log.info("sequence %s leaves %s, which is to go", attempt.request.sequence_id, source)
        self._inbox.fail(attempt.subscription, ReplicaLeaves(f"the attention replica at {source} is to go"))
        if attempt.holder is not None:
            attempt.holder.cancel()


def _log_failure(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and task.exception() is not None:
        _log.error("moving sequences failed", exc_info=task.exception())
