"""One response under way: a generation and the writer of its events; and one that runs on without its client.

ResponseJob    read by whoever answers the client; closed early, it is cancelled
LiveResponse   a background job: a task of ours reads it, clients follow
"""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, cast

from router.api.responses_answers import RUNNING
from router.api.responses_events import Event, ResponseWriter
from router.api.responses_replay import NotRepeated, Replay, ended_as_told
from router.api.responses_request import WORDING
from router.api.sse import told
from router.errors import RequestError, Unavailable
from router.generation import Generation
from router.requests import ChatUpdate
from router.store import ResponseStore
from router.store_rows import StoredResponse

FLUSH_INTERVAL_S = 1.0
"""How often a background response is kept as far as it is, and asked whether it is still wanted."""
_log = logging.getLogger(__name__)
_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Sent:
    """An event as it is sent and kept."""

    kind: str
    data: bytes
    """One line of JSON that begins with its type."""

    @classmethod
    def of(cls, event: Event) -> "Sent":
        """Return an event's JSON."""
        return cls(event["type"], _JSON.encode(event).encode())

    @classmethod
    def kept(cls, line: bytes) -> "Sent":
        """Return an event that was kept."""
        return cls(line.split(b'"', 4)[3].decode(), line)


Keep = Callable[["ResponseJob"], Awaitable[bool]]


@dataclass
class ResponseJob:
    """A response that is being made. `keep` stores what its client waited for, and says whether that went well."""

    generation: Generation[ChatUpdate]
    writer: ResponseWriter
    stored: StoredResponse
    keep: Keep
    lines: list[bytes] = field(default_factory=list[bytes])
    """Its events, if they were sent and are to be kept."""

    @property
    def is_over(self) -> bool:
        """Return whether the last event was written."""
        return self.writer.response["status"] not in RUNNING

    def final(self) -> StoredResponse:
        """Return what is to be stored of a response that is over."""
        return replace(self.stored, response=cast(dict[str, Any], self.writer.response))

    async def steps(self) -> AsyncGenerator[Event, None]:
        """Yield all events, the last one telling how it ended; no error but that of being cancelled is raised."""
        for event in self.writer.begin():
            yield event
        try:
            with WORDING.spoken():
                async with self.generation:
                    async for update in self.generation:
                        for event in self.writer.on(update):
                            yield event
        except Exception as error:  # noqa: BLE001 - it is told in the last event
            yield self.writer.fail(told(error), self.generation.usage)
            return
        yield self.writer.end(self.generation.usage)

    async def events(self) -> AsyncGenerator[Sent, None]:
        """Yield all events for a client that follows; the response is stored before its last one is sent."""
        async with aclosing(self.steps()) as steps:
            async for event in steps:
                sent = Sent.of(event)
                if self.writer.response["store"]:
                    self.lines.append(sent.data)
                if self.is_over and not await self.keep(self):
                    event["response"]["store"] = False
                    sent = Sent.of(event)
                yield sent

    async def aclose(self) -> None:
        """Stop whatever still runs; what a client left before its end is kept as cancelled."""
        await self.generation.aclose()
        if not self.is_over:
            self.lines.append(Sent.of(self.writer.cancel(self.generation.usage)).data)
            await self.keep(self)


class LiveResponse:
    """A background response that runs here."""

    def __init__(self, job: ResponseJob, store: ResponseStore, told: Sequence[bytes] = ()) -> None:
        """Run `job`, whose row is in `store` and leased to us; `told` are the events of an edge that ran it before."""
        self._job = job
        self._store = store
        self._told = told
        self._replay = Replay(told)
        self._sent = [Sent.kept(line) for line in told]
        self._num_kept = len(told)
        self._changed = asyncio.Event()
        self._is_ending = asyncio.Event()
        self._is_over = False
        self.was_taken = False
        """Another edge runs it, or has ended it: what is told here has no last event."""
        self._stopped_by: RequestError | None = None
        self._task = asyncio.create_task(self._run(), name=f"background {job.stored.id}")

    async def follow(self, after: int) -> AsyncGenerator[Sent, None]:
        """Yield the events behind sequence number `after`, as they come, until the last."""
        place = after + 1
        while True:
            while place < len(self._sent):
                yield self._sent[place]
                place += 1
            if self._is_over:
                return
            await self._changed.wait()

    async def cancel(self, error: RequestError | None = None) -> None:
        """Give the response up and return once that is stored: as cancelled, or as failed by `error`."""
        self._stopped_by = error
        self._stop()
        await asyncio.wait({self._task})

    def when_over(self, forget: Callable[[], object]) -> None:
        """Call `forget` once the response is over and stored."""
        self._task.add_done_callback(lambda _: forget())

    @property
    def is_over(self) -> bool:
        """Return whether the last event is there and stored."""
        return self._is_over

    async def _run(self) -> None:
        keeper = asyncio.create_task(self._keep_going())
        last: Event | None = None
        try:
            async with aclosing(self._job.steps()) as steps:
                async for event in steps:
                    if self._job.is_over and self._replay.is_over:
                        last = event
                        break
                    if not self._replay.has_told(event, self._job.writer.response):
                        self._say(event)
        except asyncio.CancelledError:
            last = self._given_up()
        except NotRepeated as error:
            last = self._failed_again(self._job.writer.failure or error)
        finally:
            # What is under way in the database is waited for, and nothing is cancelled any more.
            self._is_ending.set()
            await asyncio.gather(keeper, return_exceptions=True)
            await self._job.generation.aclose()
            await self._end(last or self._given_up())

    def _stop(self) -> None:
        if not self._is_ending.is_set():
            self._task.cancel()

    def _failed_again(self, error: RequestError) -> Event:
        """Return the last event of a run that did not get as far as the one before."""
        return ended_as_told(self._job.writer.response, self._told, "failed", error)

    def _given_up(self) -> Event:
        writer, usage = self._job.writer, self._job.generation.usage
        if not self._replay.is_over:
            status = "cancelled" if self._stopped_by is None else "failed"
            return ended_as_told(writer.response, self._told, status, self._stopped_by)
        return writer.cancel(usage) if self._stopped_by is None else writer.fail(self._stopped_by, usage)

    async def _end(self, last: Event) -> None:
        """Store the end before anybody hears of it; another edge that runs it now tells its end itself."""
        sent, stored = Sent.of(last), self._job.stored
        lines = [*(one.data for one in self._sent[self._num_kept :]), sent.data]
        try:
            if not await self._store.end(self._job.final(), self._num_kept, lines):
                self.was_taken = await self._store.get(stored.owner, stored.id) is not None
        except Unavailable:
            _log.warning("the end of %s could not be stored", stored.id)
        if not self.was_taken:
            self._sent.append(sent)
        self._is_over = True
        self._changed.set()

    def _say(self, event: Event) -> None:
        self._sent.append(Sent.of(event))
        self._changed.set()
        self._changed = asyncio.Event()

    async def _keep_going(self) -> None:
        """Keep what was said so far, and give up what was cancelled or deleted elsewhere."""
        while not await self._has_ended_within(FLUSH_INTERVAL_S):
            try:
                lines = [one.data for one in self._sent[self._num_kept :]]
                if not await self._store.renew(self._job.stored.id, self._num_kept, lines):
                    self._stop()
                    return
                self._num_kept += len(lines)
            except Unavailable:
                _log.warning("%s goes on, though it cannot be stored now", self._job.stored.id)

    async def _has_ended_within(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self._is_ending.wait(), seconds)
        except TimeoutError:
            return False
        return True
