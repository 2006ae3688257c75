"""What a response is made from: earlier turns by `previous_response_id`, the items of the input, the instructions."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from router.api.responses_answers import RUNNING, Item
from router.api.responses_items import input_items, is_reference, stored_place, to_item, to_turns
from router.api.responses_seal import SECRET_NAME, Seal
from router.api.responses_types import ResponseBody
from router.errors import InvalidRequest, NotFound
from router.harmony.conversation import Conversation, InstructionTurn, Turn, UserTurn
from router.service import InferenceService
from router.store import ResponseStore

PREVIOUS = "previous_response_id"


@dataclass(frozen=True, slots=True)
class Earlier:
    """The turns that a response goes on from."""

    items: tuple[Item, ...] = ()
    date: str | None = None


@dataclass(frozen=True, slots=True)
class Context:
    """Everything that the model is told, and what of it is new."""

    turns: tuple[Turn, ...]
    own_items: tuple[Item, ...]
    date: str | None
    """Of the conversation's first response; None if this is it."""


class ContextReader:
    """Reads contexts from bodies and from the store."""

    def __init__(self, store: ResponseStore, max_items: int) -> None:
        self._store = store
        self._max_items = max_items

    async def read(self, body: ResponseBody, owner: str, stem: str, own_items: Sequence[Item] | None = None) -> Context:
        """Return the context of a body, ids of new items below `stem`; raises InvalidRequest naming what is wrong.

        Of a body that was read before, `own_items` is what it gave.
        """
        if body.input is None and body.previous_response_id is None:
            raise InvalidRequest("input is missing.", "input", "missing_required_parameter")
        self._check_count(0 if isinstance(body.input, str) else len(body.input or ()))
        earlier = await self.earlier(owner, body.previous_response_id)
        own = await self._own_items(body, owner, stem) if own_items is None else tuple(own_items)
        self._check_count(len(earlier.items) + len(own))
        items = await self._opened((*earlier.items, *own), owner)
        leading = (InstructionTurn(body.instructions),) if body.instructions else ()
        turns = (*leading, *to_turns(items))
        if not turns:
            raise InvalidRequest("input is empty, and there are no instructions.", "input", "invalid_value")
        return Context(turns, own, earlier.date)

    async def seal(self, owner: str) -> Seal:
        """Return what seals reasoning for `owner`, the same at every edge of this store."""
        return Seal(await self._store.secret(SECRET_NAME), owner)

    async def earlier(self, owner: str, previous_id: str | None) -> Earlier:
        """Return what a response goes on from; raises InvalidRequest if that is not there or not over."""
        if previous_id is None:
            return Earlier()
        try:
            chain = await self._store.chain(owner, previous_id, self._max_items)
        except NotFound as error:
            raise InvalidRequest(f"{PREVIOUS}: {error.message}", PREVIOUS, "previous_response_not_found") from error
        if chain[-1].status in RUNNING:
            message = f"The response {previous_id} is not over yet; go on from it once it is."
            raise InvalidRequest(message, PREVIOUS, "invalid_value")
        items = [item for one in chain for item in (*one.input_items, *one.response["output"])]
        return Earlier(tuple(items), chain[0].date)

    async def _own_items(self, body: ResponseBody, owner: str, stem: str) -> tuple[Item, ...]:
        items: list[Item] = []
        for at, given in enumerate(input_items(body.input)):
            path = f"input[{at}]" if not isinstance(body.input, str) else "input"
            if is_reference(given):
                items.append(await self._referenced(given.id or "", owner, path))
            else:
                items.append(to_item(given, path, stem, at))
        return tuple(items)

    async def _referenced(self, item_id: str, owner: str, path: str) -> Item:
        place = stored_place(item_id)
        stored = await self._store.get(owner, place.response_id) if place is not None else None
        if place is not None and stored is not None:
            for item in stored.response["output"] if place.is_output else stored.input_items:
                if item["id"] == item_id:
                    return item
        message = f"{path}.id is {item_id[:80]!r}, and no item of that id is stored for this key."
        raise InvalidRequest(message, f"{path}.id", "item_not_found")

    async def _opened(self, items: Sequence[Item], owner: str) -> list[Item]:
        """Return items whose reasoning can be read."""
        if not any(_is_sealed(item) for item in items):
            return list(items)
        seal = await self.seal(owner)
        opened: list[Item] = []
        for item in items:
            if _is_sealed(item):
                text = seal.open(
                    item.get("encrypted_content", ""), f"input: the encrypted_content of {item['id'][:80]!r}"
                )
                item = Item({**item, "content": [{"type": "reasoning_text", "text": text}]})  # noqa: PLW2901
            opened.append(item)
        return opened

    def _check_count(self, num_items: int) -> None:
        if num_items > self._max_items:
            message = f"input has {num_items} items, earlier turns included; at most {self._max_items} are taken."
            raise InvalidRequest(message, "input", "invalid_value")


async def fitted(service: InferenceService, conversation: Conversation, max_output_tokens: int | None) -> Conversation:
    """Return a conversation without its oldest turns, as many as have to go for prompt and output to fit.

    Instructions that lead stay, and so does the last user's turn with all behind it: if that is too long, it is for the
    service to say so.
    """
    limit = await service.max_context_tokens()
    if limit is None:
        return conversation
    turns = conversation.turns
    num_leading = next((at for at, turn in enumerate(turns) if not isinstance(turn, InstructionTurn)), len(turns))
    starts = [at for at, turn in enumerate(turns) if isinstance(turn, UserTurn) and at > num_leading]
    candidates = [conversation]
    candidates += [replace(conversation, turns=turns[:num_leading] + turns[start:]) for start in starts]
    room = max(1, limit - min(max_output_tokens or 1, limit // 2))
    first, last = 0, len(candidates) - 1
    while first < last:
        middle = (first + last) // 2
        prompt = await service.render(candidates[middle])
        first, last = (first, middle) if len(prompt.token_ids) <= room else (middle + 1, last)
    return candidates[first]


def _is_sealed(item: Item) -> bool:
    return item["type"] == "reasoning" and not item.get("content") and bool(item.get("encrypted_content"))
