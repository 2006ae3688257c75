"""Responses: what the routes of `/v1/responses` ask for. Requests to jobs, ids to stored responses.

start ─▶ earlier turns from the store ─▶ InferenceService.chat ─▶ ResponseJob ─▶ store
find, follow, cancel, delete, items: what is stored, and what runs in the background, here or at another edge
adopt ─▶ lost responses, whose edge renews their lease no more ─▶ the same job again, behind what was told already
"""

import asyncio
import json
import logging
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from router.api.body import parse_body
from router.api.responses_adoption import ADOPT_INTERVAL_S, MAX_ADOPT_INTERVAL_S, MAX_ADOPTED, may_run_again, why_failed
from router.api.responses_answers import RUNNING, Item, ResponseAnswer, Status
from router.api.responses_context import Context, ContextReader, fitted
from router.api.responses_events import ResponseWriter
from router.api.responses_job import LiveResponse, ResponseJob, Sent
from router.api.responses_object import new_response, told_again
from router.api.responses_replay import ended_as_told
from router.api.responses_request import WORDING, has_logprobs, to_request
from router.api.responses_types import ENCRYPTED_REASONING, ResponseBody
from router.api.sse import told
from router.auth import note_owner
from router.errors import InvalidRequest, NotFound, RequestError, Unavailable
from router.generation import Generation
from router.requests import ChatRequest, ChatUpdate
from router.service import InferenceService
from router.store import ResponseStore
from router.store_rows import StoredResponse

POLL_INTERVAL_S = 0.5
"""How often a response that runs at another edge is looked at for a client that follows it."""
_PASSING = (429, 503)
"""What an edge may answer now that it would not answer later."""
_log = logging.getLogger(__name__)


class Responses:
    """Makes and keeps responses. Lives on one event loop."""

    def __init__(self, service: InferenceService, store: ResponseStore) -> None:
        """Answer by `service`, remember in `store`."""
        self.service = service
        self._store = store
        self._context = ContextReader(store, service.limits.max_messages)
        self._live: dict[str, LiveResponse] = {}
        self._adopted: set[str] = set()
        self._adopting: asyncio.Task[None] | None = None
        self._has_ended = False

    async def open(self) -> None:
        """Open the store; where it does not answer yet, go on without it."""
        try:
            await self._store.open()
        except Unavailable:
            _log.warning("stored responses cannot be reached; the server starts without them")
        self._adopting = asyncio.create_task(self._keep_adopting(), name="adopt responses")

    async def close(self) -> None:
        """Look for no more lost responses, fail what still runs in the background, and close the store."""
        self._has_ended = True
        if self._adopting is not None:
            self._adopting.cancel()
            await asyncio.gather(self._adopting, return_exceptions=True)
        stopped = Unavailable("The server was stopped before this response was done.")
        await asyncio.gather(*(live.cancel(stopped) for live in list(self._live.values())))
        await asyncio.to_thread(self._store.close)

    async def start(self, body: ResponseBody, owner: str) -> ResponseJob:
        """Start to answer; raises RequestError before anything runs."""
        request = self._checked(body)
        stem = uuid.uuid4().hex
        context = await self._context.read(body, owner, stem)
        seal = await self._seal(body, owner)
        date = context.date or self.service.today()
        request, generation = await self._generation(body, request, context, date)
        response = new_response(body, request, generation.started, f"resp_{stem}")
        writer = ResponseWriter(response, self.service.tokenizer, has_logprobs(body), seal)
        return ResponseJob(generation, writer, _stored(response, owner, context, date, body), self._keep)

    async def start_again(self, stored: StoredResponse) -> ResponseJob:
        """Start a stored response anew that another edge has begun: the same tokens by the same seed.

        Raises RequestError if that cannot be.
        """
        asked_for = {**(stored.request or {}), "seed": stored.response["seed"]}
        body = parse_body(json.dumps(asked_for).encode(), ResponseBody)
        request = self._checked(body)
        stem = stored.id.removeprefix("resp_")
        context = await self._context.read(body, stored.owner, stem, stored.input_items)
        seal = await self._seal(body, stored.owner)
        _, generation = await self._generation(body, request, context, stored.date)
        response = cast(ResponseAnswer, stored.response)
        writer = ResponseWriter(response, self.service.tokenizer, has_logprobs(body), seal)
        return ResponseJob(generation, writer, stored, self._keep)

    def _checked(self, body: ResponseBody) -> ChatRequest:
        request = to_request(body, self.service.limits)
        self.service.check_model(body.model)
        return request

    async def _generation(
        self, body: ResponseBody, request: ChatRequest, context: Context, date: str
    ) -> tuple[ChatRequest, Generation[ChatUpdate]]:
        conversation = replace(request.conversation, turns=context.turns, date=date)
        if body.truncation == "auto":
            conversation = await fitted(self.service, conversation, body.max_output_tokens)
        request = replace(request, conversation=conversation)
        with WORDING.spoken():
            return request, await self.service.chat(request)

    async def _seal(self, body: ResponseBody, owner: str) -> Callable[[str], str] | None:
        wants_sealed = ENCRYPTED_REASONING in (body.include or ())
        return (await self._context.seal(owner)).close if wants_sealed else None

    async def run_in_background(self, job: ResponseJob) -> LiveResponse:
        """Let a job run on by itself; its row is there before this returns."""
        try:
            if self._has_ended:
                raise Unavailable("The server is being stopped.")
            await self._store.put(job.stored, is_running=True)
        except BaseException:
            await job.generation.aclose()
            raise
        return self._go_live(job)

    async def adopt(self) -> int:
        """Take over responses that nobody runs any more, as far as that can be now; return how many."""
        num_adopted = 0
        for stored in await self._store.lost(MAX_ADOPTED - len(self._adopted)):
            if not may_run_again(stored):
                await self._end_lost(stored, "failed", why_failed(stored))
            elif stored.id not in self._live and await self._can_repeat(stored):
                # A task of its own: it runs for the owner of the response.
                num_adopted += await asyncio.create_task(self._run_again(stored))
        return num_adopted

    async def _can_repeat(self, stored: StoredResponse) -> bool:
        """Return whether the same model and numerics are served here now; if not, perhaps at another edge."""
        readiness, response = await self.service.readiness(), stored.response
        is_same = (
            readiness.fingerprint == response["system_fingerprint"] and self.service.model.name == response["model"]
        )
        return readiness.is_ready and is_same

    async def _run_again(self, stored: StoredResponse) -> bool:
        """Take a lost response and run it; return False if another edge has it, or it cannot be run now, or ever."""
        if not await self._store.take(stored.id):
            return False
        note_owner(stored.owner)
        lines = await self._store.events(stored.id, -1)
        try:
            job = await self.start_again(stored)
        except Exception as error:  # noqa: BLE001 - it is what the response has failed with
            failure = told(error)
            if failure.status in _PASSING:
                await self._store.leave(stored)
                return False
            last = ended_as_told(cast(ResponseAnswer, stored.response), lines, "failed", failure)
            await self._store.end(stored, len(lines), [Sent.of(last).data])
            return False
        _log.info("response %s, whose server has stopped, goes on here", stored.id)
        self._adopted.add(stored.id)
        self._go_live(job, lines)
        return True

    def _go_live(self, job: ResponseJob, told: Sequence[bytes] = ()) -> LiveResponse:
        live = LiveResponse(job, self._store, told)
        self._live[job.stored.id] = live
        live.when_over(lambda: self._forget(job.stored.id))
        return live

    def _forget(self, response_id: str) -> None:
        self._live.pop(response_id, None)
        self._adopted.discard(response_id)

    async def _keep_adopting(self) -> None:
        pause_s = ADOPT_INTERVAL_S
        while True:
            await asyncio.sleep(pause_s)
            try:
                await self.adopt()
                pause_s = ADOPT_INTERVAL_S
            except Exception:  # noqa: BLE001 - whatever it was, there is a next time
                pause_s = min(2 * pause_s, MAX_ADOPT_INTERVAL_S)
                _log.warning("lost responses could not be looked for", exc_info=True)

    async def find(self, owner: str, response_id: str) -> StoredResponse:
        """Return the owner's stored response, as far as it is; raises NotFound."""
        stored = await self._store.get(owner, response_id)
        if stored is None:
            raise NotFound(f"There is no response {response_id[:80]!r}, or none that this key may see.", "response_id")
        return await self._settled(stored)

    async def follow(self, stored: StoredResponse, after: int) -> AsyncGenerator[Sent, None]:
        """Yield the events of a stored response behind sequence number `after`, until its last."""
        live = self._live.get(stored.id)
        if live is not None:
            async for sent in live.follow(after):
                yield sent
                after += 1
            if not live.was_taken:
                return
            stored = await self.find(stored.owner, stored.id)
        while stored.status in RUNNING:
            lines = await self._store.events(stored.id, after)
            for line in lines:
                yield Sent.kept(line)
            after += len(lines)
            if not lines:
                await asyncio.sleep(POLL_INTERVAL_S)
            stored = await self.find(stored.owner, stored.id)
        kept = [Sent.kept(line) for line in await self._store.events(stored.id, -1)]
        for sent in (kept or _all_again(stored, self.service))[after + 1 :]:
            yield sent

    async def cancel(self, owner: str, response_id: str) -> StoredResponse:
        """Give a background response up; one that is over stays as it is. Raises NotFound, InvalidRequest."""
        stored = await self.find(owner, response_id)
        if not stored.response["background"]:
            raise InvalidRequest("Only a response that runs in the background can be cancelled.", "response_id")
        if stored.is_lost:
            stored = await self._end_lost(stored, "cancelled")
        live = self._live.get(response_id)
        if live is not None and not live.is_over:
            await live.cancel()
            stored = await self.find(owner, response_id)
        if stored.status in RUNNING:
            await self._store.ask_cancel(response_id)
            async for _ in self.follow(stored, -1):
                pass
        return await self.find(owner, response_id)

    async def delete(self, owner: str, response_id: str) -> None:
        """Remove a response; one that runs is given up. Raises NotFound."""
        await self.find(owner, response_id)
        await self._store.delete(owner, response_id)
        live = self._live.get(response_id)
        if live is not None and not live.is_over:
            await live.cancel()

    async def items(self, owner: str, response_id: str) -> list[Item]:
        """Return what a response was made from, in order: earlier turns, as long as they are kept, and its own input.

        Raises NotFound.
        """
        stored = await self.find(owner, response_id)
        try:
            earlier = await self._context.earlier(owner, stored.previous_id)
        except InvalidRequest:
            return list(stored.input_items)
        return [*earlier.items, *stored.input_items]

    async def _keep(self, job: ResponseJob) -> bool:
        """Store a response that is over; return False if it was to be stored and could not be."""
        if not job.writer.response["store"]:
            return True
        try:
            await self._store.put(job.final(), job.lines)
        except Unavailable:
            return False
        return True

    async def _settled(self, stored: StoredResponse) -> StoredResponse:
        """Return a response, failed if whoever ran it is gone and nobody may run it again."""
        if not stored.is_lost or may_run_again(stored):
            return stored
        return await self._end_lost(stored, "failed", why_failed(stored))

    async def _end_lost(
        self, stored: StoredResponse, status: Status, error: RequestError | None = None
    ) -> StoredResponse:
        """End a response that nobody runs, what it had finished by then is its output; return it as it is now."""
        lines = await self._store.events(stored.id, -1)
        last = ended_as_told(cast(ResponseAnswer, stored.response), lines, status, error)
        settled = replace(stored, request=None, num_runs=0, lost_s=None)
        await self._store.end_lost(settled, len(lines), [Sent.of(last).data])
        return await self._store.get(stored.owner, stored.id) or settled


def _stored(response: ResponseAnswer, owner: str, context: Context, date: str, body: ResponseBody) -> StoredResponse:
    items: list[Any] = list(context.own_items)
    asked = body.model_dump(mode="json", by_alias=True, exclude_unset=True) if body.background else None
    return StoredResponse(response["id"], owner, cast(dict[str, Any], response), items, date, asked)


def _all_again(stored: StoredResponse, service: InferenceService) -> list[Sent]:
    response: Mapping[str, Any] = stored.response
    return [Sent.of(event) for event in told_again(cast(ResponseAnswer, response), service.tokenizer)]
