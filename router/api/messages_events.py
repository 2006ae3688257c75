"""MessageWriter: a model's updates to the events of a message, in Anthropic's order.

    message_start, ping
      content_block_start, content_block_delta …, content_block_stop        thinking, text or tool_use
    message_delta, message_stop

The message is what the events say at any time: a whole answer is the message behind the last of them. A tool's input
comes in one piece once it is whole, since Anthropic's clients fail at input that is no JSON.
"""

import hashlib
from collections.abc import Iterator
from typing import Any, Literal

from router.api.error_bodies import anthropic_error
from router.api.messages_types import BlockAnswer, MessagesAnswer, MessagesUsage
from router.api.sse import EventStream, encode_event, encode_json, told
from router.api.whole_calls import CallCollector, WholeCall
from router.harmony.deltas import ContentDelta, Delta, MessageEnded, ReasoningDelta
from router.requests import ChatUpdate, Finish, Started, Usage

Event = dict[str, Any]
_PING: Event = {"type": "ping"}


class MessageStream(EventStream):
    """Events with their names; pings while nothing comes."""

    ending = b""
    keep_alive = b"event: ping\n" + encode_event(_PING)

    def encode(self, event: Event) -> bytes:
        """Return one event's bytes."""
        return b"event: " + event["type"].encode() + b"\n" + encode_event(event)

    def encode_failure(self, error: Exception) -> bytes:
        """Return the event that says that the stream cannot go on."""
        return self.encode({**anthropic_error(told(error))})


class MessageWriter:
    """Writes one message."""

    def __init__(self, started: Started, shows_thinking: bool) -> None:
        """Write thinking blocks only if they are wanted."""
        self.message: MessagesAnswer = {
            "id": f"msg_{started.request_id}",
            "type": "message",
            "role": "assistant",
            "model": started.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage_answer(Usage(num_prompt=started.num_prompt_tokens)),
        }
        self._id_stem = f"toolu_{started.request_id[:22]}"
        self._shows_thinking = shows_thinking
        self._calls = CallCollector()
        self._open: BlockAnswer | None = None
        self._texts: list[str] = []

    def begin(self, usage: Usage) -> Iterator[Event]:
        """Yield what a message opens with."""
        self.message["usage"] = usage_answer(usage)
        yield {"type": "message_start", "message": {**self.message, "content": []}}
        yield dict(_PING)

    def on(self, update: ChatUpdate) -> Iterator[Event]:
        """Yield what an update adds."""
        for delta in update.deltas:
            yield from self._take(delta)
        if update.finish is not None:
            self.message["stop_reason"] = _stop_reason(update)
            self.message["stop_sequence"] = update.stop

    def end(self, usage: Usage) -> Iterator[Event]:
        """Yield what a message closes with; one that has nothing to say has an empty text."""
        if not self.message["content"]:
            yield from self._add({"type": "text", "text": ""})
            yield from self._close()
        self.message["usage"] = usage_answer(usage)
        reason = {"stop_reason": self.message["stop_reason"], "stop_sequence": self.message["stop_sequence"]}
        yield {"type": "message_delta", "delta": reason, "usage": self.message["usage"]}
        yield {"type": "message_stop"}

    def _take(self, delta: Delta) -> Iterator[Event]:
        call = self._calls.on(delta)
        if call is not None:
            yield from self._tool_use(call)
        elif isinstance(delta, ReasoningDelta) and self._shows_thinking:
            yield from self._more("thinking", delta.text)
        elif isinstance(delta, ContentDelta):
            yield from self._more("text", delta.text)
        elif isinstance(delta, MessageEnded):
            yield from self._close()

    def _more(self, kind: Literal["text", "thinking"], text: str) -> Iterator[Event]:
        if not text:
            return
        if self._open is None:
            unsigned = {"signature": ""} if kind == "thinking" else {}
            yield from self._add({"type": kind, kind: "", **unsigned})
        self._texts.append(text)
        yield self._delta({"type": f"{kind}_delta", kind: text})

    def _tool_use(self, call: WholeCall) -> Iterator[Event]:
        yield from self._add(
            {"type": "tool_use", "id": f"{self._id_stem}{call.call:02x}", "name": call.name, "input": {}}
        )
        yield self._delta({"type": "input_json_delta", "partial_json": encode_json(call.arguments).decode()})
        self.message["content"][-1]["input"] = call.arguments
        yield from self._close()

    def _add(self, block: Any) -> Iterator[Event]:
        self._open, self._texts = block, []
        self.message["content"].append(block)
        yield {"type": "content_block_start", "index": self._index, "content_block": dict(block)}

    def _close(self) -> Iterator[Event]:
        block, text = self._open, "".join(self._texts)
        if block is None:
            return
        if block["type"] == "thinking":
            signature = signature_of(text)
            block["thinking"], block["signature"] = text, signature
            yield self._delta({"type": "signature_delta", "signature": signature})
        elif block["type"] == "text":
            block["text"] = text
        yield {"type": "content_block_stop", "index": self._index}
        self._open = None

    def _delta(self, delta: dict[str, Any]) -> Event:
        return {"type": "content_block_delta", "index": self._index, "delta": delta}

    @property
    def _index(self) -> int:
        return len(self.message["content"]) - 1


def signature_of(thinking: str) -> str:
    """Return what stands for Anthropic's signature, without which clients drop a thinking block: a digest."""
    return hashlib.sha256(thinking.encode()).hexdigest()


def usage_answer(usage: Usage) -> MessagesUsage:
    """Return Anthropic's usage object."""
    return {
        "input_tokens": usage.num_prompt - usage.num_cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.num_cached,
        "output_tokens": usage.num_completion,
        "output_tokens_details": {"thinking_tokens": usage.num_reasoning},
    }


def _stop_reason(update: ChatUpdate) -> str:
    if update.finish is Finish.LENGTH:
        return "max_tokens"
    if update.finish is Finish.TOOL_CALLS:
        return "tool_use"
    return "end_turn" if update.stop is None else "stop_sequence"
