"""Responses: what the routes of `/v1/responses` ask for. Requests to jobs, ids to stored responses.

start ─▶ earlier turns from the store ─▶ InferenceService.chat ─▶ ResponseJob ─▶ store
find, follow, cancel, delete, items: what is stored, and what runs in the background, here or at another edge
"""

import asyncio
import json
import logging
import uuid
from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace
from typing import Any, cast

from router.api.responses_answers import RUNNING, Item, ResponseAnswer
from router.api.responses_context import Context, ContextReader, fitted
from router.api.responses_events import ResponseWriter, failure_answer
from router.api.responses_job import LiveResponse, ResponseJob, Sent
from router.api.responses_object import new_response, told_again
from router.api.responses_request import WORDING, has_logprobs, to_request
from router.api.responses_types import ENCRYPTED_REASONING, ResponseBody
from router.errors import InvalidRequest, NotFound, Unavailable
from router.service import InferenceService
from router.store import ResponseStore
from router.store_rows import StoredResponse

POLL_INTERVAL_S = 0.5
"""How often a response that runs at another edge is looked at for a client that follows it."""
_log = logging.getLogger(__name__)


class Responses:
    """Makes and keeps responses. Lives on one event loop."""

    def __init__(self, service: InferenceService, store: ResponseStore) -> None:
        """Answer by `service`, remember in `store`."""
        self.service = service
        self._store = store
        self._context = ContextReader(store, service.limits.max_messages)
        self._live: dict[str, LiveResponse] = {}
        self._has_ended = False

    async def open(self) -> None:
        """Open the store; where it does not answer yet, go on without it."""
        try:
            await self._store.open()
        except Unavailable:
            _log.warning("stored responses cannot be reached; the server starts without them")

    async def close(self) -> None:
        """Fail what still runs in the background, and close the store."""
        self._has_ended = True
        stopped = Unavailable("The server was stopped before this response was done.")
        await asyncio.gather(*(live.cancel(stopped) for live in list(self._live.values())))
        await asyncio.to_thread(self._store.close)

    async def start(self, body: ResponseBody, owner: str) -> ResponseJob:
        """Start to answer; raises RequestError before anything runs."""
        request = to_request(body, self.service.limits)
        self.service.check_model(body.model)
        stem = uuid.uuid4().hex
        context = await self._context.read(body, owner, stem)
        seal = await self._context.seal(owner) if ENCRYPTED_REASONING in (body.include or ()) else None
        conversation = replace(request.conversation, turns=context.turns, date=context.date or self.service.today())
        if body.truncation == "auto":
            conversation = await fitted(self.service, conversation, body.max_output_tokens)
        request = replace(request, conversation=conversation)
        with WORDING.spoken():
            generation = await self.service.chat(request)
        response = new_response(body, request, generation.started, f"resp_{stem}")
        writer = ResponseWriter(
            response, self.service.tokenizer, has_logprobs(body), None if seal is None else seal.close
        )
        stored = _stored(response, owner, context, conversation.date or "")
        return ResponseJob(generation, writer, stored, self._keep)

    async def run_in_background(self, job: ResponseJob) -> LiveResponse:
        """Let a job run on by itself; its row is there before this returns."""
        try:
            if self._has_ended:
                raise Unavailable("The server is being stopped.")
            await self._store.put(job.stored, is_running=True)
        except BaseException:
            await job.generation.aclose()
            raise
        live = LiveResponse(job, self._store)
        self._live[job.stored.id] = live
        live.when_over(lambda: self._live.pop(job.stored.id, None))
        return live

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
            return
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
        live = self._live.get(response_id)
        if live is not None and not live.is_over:
            await live.cancel()
        elif stored.status in RUNNING:
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
        """Return a response, failed if whoever ran it is gone: what it had finished by then is its output."""
        if not stored.is_lost:
            return stored
        lines = await self._store.events(stored.id, -1)
        events = [json.loads(line) for line in lines]
        output = [event["item"] for event in events if event["type"] == "response.output_item.done"]
        lost = Unavailable("The server that ran this response stopped before it was done.")
        response = stored.response | {"status": "failed", "output": output, "error": failure_answer(lost)}
        last = Sent.of({"type": "response.failed", "sequence_number": len(events), "response": response})
        settled = replace(stored, response=response, is_lost=False)
        await self._store.end_lost(settled, len(events), [last.data])
        return settled


def _stored(response: ResponseAnswer, owner: str, context: Context, date: str) -> StoredResponse:
    items: list[Any] = list(context.own_items)
    return StoredResponse(response["id"], owner, cast(dict[str, Any], response), items, date)


def _all_again(stored: StoredResponse, service: InferenceService) -> list[Sent]:
    response: Mapping[str, Any] = stored.response
    return [Sent.of(event) for event in told_again(cast(ResponseAnswer, response), service.tokenizer)]
