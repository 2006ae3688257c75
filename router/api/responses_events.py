"""ResponseWriter: a model's updates to the events of a response, in OpenAI's order.

    created, [queued], in_progress
      output_item.added
        content_part.added, reasoning_text.delta …, reasoning_text.done, content_part.done      reasoning
        content_part.added, output_text.delta …, output_text.done, content_part.done            message
        function_call_arguments.delta …, function_call_arguments.done                           function_call
      output_item.done
    completed | incomplete | failed

The response object is what the events say at any time: a whole answer is the last event's response.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any, cast

from model.sampling_params import TokenLogprob
from model.tokenizer import Tokenizer
from router.api.chat_reply import logprobs_answer
from router.api.chat_types import LogprobAnswer
from router.api.responses_answers import FailureAnswer, Item, ResponseAnswer, ResponseUsage, Status, TextPart
from router.errors import RequestError
from router.harmony.deltas import (
    CallBegun,
    ContentDelta,
    Delta,
    Ending,
    MessageBegun,
    MessageEnded,
    MessageKind,
    ReasoningDelta,
)
from router.requests import ChatUpdate, Finish, Usage

Event = dict[str, Any]
_PHASES = {MessageKind.PREAMBLE: "commentary", MessageKind.ANSWER: "final_answer"}


class ResponseWriter:
    """Writes one response. `seal`, if given, makes the sealed copy of reasoning that a stateless client hands back."""

    def __init__(
        self, response: ResponseAnswer, tokenizer: Tokenizer, has_logprobs: bool, seal: Callable[[str], str] | None
    ) -> None:
        self.response = response
        self.failure: RequestError | None = None
        self._tokenizer = tokenizer
        self._has_logprobs = has_logprobs
        self._seal = seal
        self._finish: Finish | None = None
        self._num_events = 0
        self._open: Item | None = None
        self._texts: list[str] = []
        self._kind = MessageKind.ANSWER

    def begin(self) -> Iterator[Event]:
        """Yield what a response opens with; one that is queued stays so until its first update."""
        yield self._whole("created")
        yield self._whole("queued" if self.response["status"] == "queued" else "in_progress")

    def on(self, update: ChatUpdate) -> Iterator[Event]:
        """Yield what an update adds."""
        if self.response["status"] == "queued":
            self.response["status"] = "in_progress"
            yield self._whole("in_progress")
        self._finish = update.finish or self._finish
        logprobs = iter(update.logprobs)
        for delta in update.deltas:
            yield from self._take(delta, logprobs)

    def end(self, usage: Usage) -> Event:
        """Return the last event of a response whose turn is over."""
        if self._finish is Finish.LENGTH:
            self.response["incomplete_details"] = {"reason": "max_output_tokens"}
            return self._last("incomplete", usage)
        self.response["completed_at"] = int(time.time())
        return self._last("completed", usage)

    def fail(self, error: RequestError, usage: Usage) -> Event:
        """Return the last event of a response that could not be finished."""
        self.failure = error
        self.response["error"] = failure_answer(error)
        return self._last("failed", usage)

    def cancel(self, usage: Usage) -> Event:
        """Return the last event of a response that was given up: OpenAI has no event of that name."""
        return self._last("cancelled", usage)

    def _last(self, status: Status, usage: Usage) -> Event:
        if self._open is not None:
            self._fill("incomplete")
            self._open = None
        self.response["status"] = status
        self.response["usage"] = usage_answer(usage)
        return self._whole("incomplete" if status == "cancelled" else status)

    def _take(self, delta: Delta, logprobs: Iterator[TokenLogprob]) -> Iterator[Event]:
        if isinstance(delta, MessageBegun):
            self._kind = delta.kind
            if delta.kind in _PHASES:
                yield from self._begin_message()
        elif isinstance(delta, CallBegun):
            yield from self._begin_call(delta)
        elif isinstance(delta, MessageEnded):
            yield from self._end_item(delta)
        elif isinstance(delta, ReasoningDelta):
            if self._open is None:
                yield from self._begin_reasoning()
            yield self._delta("reasoning_text.delta", delta.text, content_index=0)
        elif isinstance(delta, ContentDelta):
            found = tuple(one for _, one in zip(delta.positions, logprobs, strict=False))
            if delta.text or found:
                told = self._told(found)
                self._part().setdefault("logprobs", []).extend(told)
                yield self._delta("output_text.delta", delta.text, content_index=0, logprobs=told)
        else:
            yield self._delta("function_call_arguments.delta", delta.text)

    def _begin_reasoning(self) -> Iterator[Event]:
        yield self._add({"id": self._id("rs"), "type": "reasoning", "summary": [], "content": []})
        yield self._add_part({"type": "reasoning_text", "text": ""})

    def _begin_message(self) -> Iterator[Event]:
        item: Item = {"id": self._id("msg"), "type": "message", "role": "assistant", "content": []}
        item["phase"] = cast(Any, _PHASES[self._kind])
        yield self._add(item)
        yield self._add_part({"type": "output_text", "text": "", "annotations": [], "logprobs": []})

    def _begin_call(self, delta: CallBegun) -> Iterator[Event]:
        call_id = f"call_{self._stem[:20]}{len(self.response['output']):02x}"
        yield self._add(
            {
                "id": self._id("fc"),
                "type": "function_call",
                "call_id": call_id,
                "name": delta.name,
                "arguments": "",
            }
        )

    def _end_item(self, delta: MessageEnded) -> Iterator[Event]:
        item = self._open
        if item is None:
            return
        is_cut = delta.ending is Ending.CUT and self._finish is Finish.LENGTH
        self._fill("incomplete" if is_cut else "completed")
        text = "".join(self._texts)
        if item["type"] == "function_call":
            name = item.get("name", "")
            yield self._event("function_call_arguments.done", item_id=item["id"], name=name, arguments=text)
        elif item["type"] == "reasoning":
            yield self._event("reasoning_text.done", item_id=item["id"], content_index=0, text=text)
            yield self._event("content_part.done", item_id=item["id"], content_index=0, part=dict(self._part()))
        else:
            told = list(self._part().get("logprobs", []))
            yield self._event("output_text.done", item_id=item["id"], content_index=0, text=text, logprobs=told)
            yield self._event("content_part.done", item_id=item["id"], content_index=0, part=dict(self._part()))
        yield self._event("output_item.done", item=dict(item))
        self._open = None

    def _fill(self, status: Any) -> None:
        """Put the text so far where it belongs in the open item."""
        assert self._open is not None, "an item is open"
        text = "".join(self._texts)
        self._open["status"] = status
        if self._open["type"] == "function_call":
            self._open["arguments"] = text
            return
        self._part()["text"] = text
        if self._seal is not None and self._open["type"] == "reasoning":
            self._open["encrypted_content"] = self._seal(text)

    def _add(self, item: Item) -> Event:
        item["status"] = "in_progress"
        self._open, self._texts = item, []
        self.response["output"].append(item)
        return self._event("output_item.added", item={**item, "content": []} if "content" in item else dict(item))

    def _add_part(self, part: TextPart) -> Event:
        assert self._open is not None, "parts belong to items"
        self._open.setdefault("content", []).append(part)
        return self._event("content_part.added", item_id=self._open["id"], content_index=0, part=dict(part))

    def _delta(self, kind: str, text: str, **fields: Any) -> Event:
        assert self._open is not None, f"a {kind} without an item"
        self._texts.append(text)
        return self._event(kind, item_id=self._open["id"], **fields, delta=text)

    def _part(self) -> TextPart:
        assert self._open is not None, "parts belong to items"
        return self._open.get("content", [])[0]

    def _told(self, logprobs: tuple[TokenLogprob, ...]) -> list[LogprobAnswer]:
        return logprobs_answer(logprobs, self._tokenizer)["content"] if self._has_logprobs else []

    def _event(self, kind: str, **fields: Any) -> Event:
        """Return an event of the item that is open, the last one."""
        return self._numbered(kind, output_index=len(self.response["output"]) - 1, **fields)

    def _whole(self, kind: str) -> Event:
        return self._numbered(kind, response={**self.response, "output": list(self.response["output"])})

    def _numbered(self, kind: str, **fields: Any) -> Event:
        self._num_events += 1
        return {"type": f"response.{kind}", "sequence_number": self._num_events - 1, **fields}

    def _id(self, prefix: str) -> str:
        return f"{prefix}_{self._stem}o{len(self.response['output'])}"

    @property
    def _stem(self) -> str:
        return self.response["id"].removeprefix("resp_")


def usage_answer(usage: Usage) -> ResponseUsage:
    """Return OpenAI's usage object of a response."""
    return {
        "input_tokens": usage.num_prompt,
        "input_tokens_details": {"cached_tokens": usage.num_cached, "cache_write_tokens": 0},
        "output_tokens": usage.num_completion,
        "output_tokens_details": {"reasoning_tokens": usage.num_reasoning},
        "total_tokens": usage.num_total,
    }


def failure_answer(error: RequestError) -> FailureAnswer:
    """Return OpenAI's error of a response, whose codes are few."""
    if error.status == 429:
        return {"code": "rate_limit_exceeded", "message": error.message}
    return {"code": "invalid_prompt" if error.status < 500 else "server_error", "message": error.message}
