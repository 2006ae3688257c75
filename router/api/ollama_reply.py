"""From updates to Ollama's objects. A whole answer is the fold of the very lines that a stream would send."""

import time
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from typing import Any

from model.tokenizer import Tokenizer
from router.api.chat_reply import MessagePieces, logprobs_answer
from router.api.error_bodies import ollama_error
from router.api.ollama_request import WORDING
from router.api.ollama_types import OllamaCallAnswer
from router.api.sse import EventStream, encode_json, told
from router.api.whole_calls import CallCollector
from router.generation import Generation
from router.requests import ChatUpdate, Finish, Started, TextUpdate, Usage

Line = dict[str, Any]


class LineStream(EventStream):
    """One JSON object a line. A client would read anything else as an object too, so silence stays silent."""

    ending = b""
    keep_alive = b""
    media_type = "application/x-ndjson"

    def encode(self, event: Mapping[str, Any]) -> bytes:
        """Return one object's line."""
        return encode_json(event) + b"\n"

    def encode_failure(self, error: Exception) -> bytes:
        """Return the line that says that the stream cannot go on."""
        return self.encode(ollama_error(told(error)))


class OllamaReply:
    """The objects of one request's answer: of a chat with a `message`, of a prompt with a `response`."""

    def __init__(
        self, started: Started, tokenizer: Tokenizer, is_chat: bool, shows_thinking: bool, began_ns: int
    ) -> None:
        """Measure from `began_ns`, a time of the monotonic clock."""
        self._model = started.model
        self._id_stem = f"call_{started.request_id[:20]}"
        self._tokenizer = tokenizer
        self._is_chat = is_chat
        self._pieces = MessagePieces(started.request_id, 0, shows_thinking)
        self._calls = CallCollector()
        self._finish = Finish.STOP
        self._began_ns = began_ns
        self._first_ns: int | None = None
        self._whole: Line = {"content": ""}

    async def lines(self, generation: Generation[Any]) -> AsyncIterator[Line]:
        """Yield the lines of a stream, the last one with reason, counts and durations."""
        with WORDING.spoken():
            async for update in generation:
                said = self._said(update)
                if said:
                    yield self._line(said)
        yield self._line({}) | self._last(generation.usage)

    def fold(self, update: ChatUpdate | TextUpdate) -> None:
        """Add an update to the whole answer."""
        for name, value in self._said(update).items():
            self._whole[name] = self._whole[name] + value if name in self._whole else value

    def answer(self, usage: Usage) -> Line:
        """Return the whole answer of the updates folded so far."""
        return self._line(self._whole) | self._last(usage)

    def _said(self, update: ChatUpdate | TextUpdate) -> Line:
        """Return what an update adds: content, thinking, tool_calls and logprobs, without those that are empty."""
        self._first_ns = self._first_ns or time.monotonic_ns()
        self._finish = update.finish or self._finish
        if isinstance(update, TextUpdate):
            said: Line = {"content": update.text}
        else:
            piece = self._pieces.piece(update)
            said = {"content": piece.get("content"), "thinking": piece.get("reasoning")}
            said["tool_calls"] = self._ended(update)
        said["logprobs"] = logprobs_answer(update.logprobs, self._tokenizer)["content"]
        return {name: value for name, value in said.items() if value}

    def _ended(self, update: ChatUpdate) -> list[OllamaCallAnswer]:
        calls = [call for delta in update.deltas if (call := self._calls.on(delta)) is not None]
        return [
            {
                "id": f"{self._id_stem}0{call.call:02x}",
                "function": {"index": call.call, "name": call.name, "arguments": call.arguments},
            }
            for call in calls
        ]

    def _line(self, said: Line) -> Line:
        content, more = said.get("content", ""), {key: said[key] for key in ("thinking", "tool_calls") if key in said}
        message = {"role": "assistant", "content": content, **more}
        body = {"message": message} if self._is_chat else {"response": content, **more}
        logprobs = {"logprobs": said["logprobs"]} if "logprobs" in said else {}
        return {"model": self._model, "created_at": rfc3339(time.time()), **body, "done": False, **logprobs}

    def _last(self, usage: Usage) -> Line:
        now_ns = time.monotonic_ns()
        first_ns = self._first_ns or now_ns
        return {
            "done": True,
            "done_reason": "length" if self._finish is Finish.LENGTH else "stop",
            "total_duration": now_ns - self._began_ns,
            "load_duration": 0,
            "prompt_eval_count": usage.num_prompt,
            "prompt_eval_duration": first_ns - self._began_ns,
            "eval_count": usage.num_completion,
            "eval_duration": now_ns - first_ns,
        }


def rfc3339(seconds: float) -> str:
    """Return seconds since the epoch as Ollama writes times."""
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
