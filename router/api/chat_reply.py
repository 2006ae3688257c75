"""From updates to OpenAI's chat objects. A whole answer is the fold of the very pieces that a stream would send."""

from typing import Any, cast

from model.sampling_params import TokenLogprob
from model.tokenizer import Tokenizer
from router.api.chat_types import (
    CallAnswer,
    ChatAnswer,
    ChatChoiceAnswer,
    ChatChunk,
    ChunkChoiceAnswer,
    LogprobAnswer,
    LogprobsAnswer,
    MessageAnswer,
    TopLogprobAnswer,
    UsageAnswer,
)
from router.harmony.deltas import CallBegun, CallDelta, ContentDelta, Delta, ReasoningDelta
from router.requests import ChatUpdate, Started, Usage

BETWEEN_MESSAGES = "\n\n"
"""A chat answer has one content and one reasoning; where the model wrote several messages, this stands between them."""


class MessagePieces:
    """One choice's deltas as pieces of one OpenAI message."""

    def __init__(self, request_id: str, choice: int, shows_reasoning: bool) -> None:
        self._id_stem = f"call_{request_id[:20]}{choice:x}"
        self._shows_reasoning = shows_reasoning
        self._is_new = True
        self._last_message: dict[str, int] = {}
        self._has_calls = False

    def piece(self, update: ChatUpdate) -> MessageAnswer:
        """Return what an update adds to the message; the first piece has the role, the last one some content."""
        piece: MessageAnswer = {}
        if self._is_new:
            piece["role"] = "assistant"
            self._is_new = False
        for delta in update.deltas:
            self._add(delta, piece)
        if update.finish is not None and "content" not in self._last_message and not self._has_calls:
            piece["content"] = ""
        return piece

    def _add(self, delta: Delta, piece: MessageAnswer) -> None:
        if isinstance(delta, ContentDelta):
            piece["content"] = (piece.get("content") or "") + self._separated("content", delta)
        elif isinstance(delta, ReasoningDelta) and self._shows_reasoning:
            piece["reasoning"] = piece.get("reasoning", "") + self._separated("reasoning", delta)
        elif isinstance(delta, CallBegun):
            self._has_calls = True
            call: CallAnswer = {
                "index": delta.call,
                "id": f"{self._id_stem}{delta.call:02x}",
                "type": "function",
                "function": {"name": delta.name, "arguments": ""},
            }
            piece.setdefault("tool_calls", []).append(call)
        elif isinstance(delta, CallDelta):
            calls = piece.setdefault("tool_calls", [])
            if not calls or calls[-1].get("index") != delta.call:
                calls.append({"index": delta.call, "function": {"arguments": ""}})
            calls[-1]["function"]["arguments"] += delta.text

    def _separated(self, field: str, delta: ContentDelta | ReasoningDelta) -> str:
        last = self._last_message.get(field)
        self._last_message[field] = delta.message
        return delta.text if last in (None, delta.message) else BETWEEN_MESSAGES + delta.text


class ChatReply:
    """The objects of one request's answer."""

    def __init__(self, started: Started, tokenizer: Tokenizer, shows_reasoning: bool, has_logprobs: bool) -> None:
        self._started = started
        self._tokenizer = tokenizer
        self._shows_reasoning = shows_reasoning
        self._has_logprobs = has_logprobs
        self._pieces: dict[int, MessagePieces] = {}
        self._whole: dict[int, ChatChoiceAnswer] = {}

    def chunk(self, update: ChatUpdate) -> ChatChunk | None:
        """Return the stream event of an update; None if it adds nothing that a client sees."""
        choice = self._chunk_choice(update)
        is_empty = (
            not choice["delta"] and choice["finish_reason"] is None and not (choice["logprobs"] or {}).get("content")
        )
        return None if is_empty else self._chunk([choice])

    def usage_chunk(self, usage: Usage) -> ChatChunk:
        """Return the stream event that tells the usage: no choices."""
        chunk = self._chunk([])
        chunk["usage"] = usage_answer(usage)
        return chunk

    def fold(self, update: ChatUpdate) -> None:
        """Add an update to the whole answer."""
        more = self._chunk_choice(update)
        whole = self._whole.get(update.choice)
        if whole is None:
            empty: LogprobsAnswer | None = {"content": []} if self._has_logprobs else None
            whole = ChatChoiceAnswer(index=update.choice, message={}, logprobs=empty, finish_reason="")
            self._whole[update.choice] = whole
        _fold_message(whole["message"], more["delta"])
        if whole["logprobs"] is not None and more["logprobs"] is not None:
            whole["logprobs"]["content"] += more["logprobs"]["content"]
        whole["finish_reason"] = more["finish_reason"] or whole["finish_reason"]

    def answer(self, usage: Usage) -> ChatAnswer:
        """Return the whole answer of the updates folded so far."""
        choices = [self._whole[choice] for choice in sorted(self._whole)]
        for choice in choices:
            choice["message"].setdefault("content", None)
            for call in choice["message"].get("tool_calls", []):
                call.pop("index", None)
        return {
            "id": self._id,
            "object": "chat.completion",
            "created": self._started.created_s,
            "model": self._started.model,
            "system_fingerprint": self._started.fingerprint,
            "seed": self._started.seed,
            "choices": choices,
            "usage": usage_answer(usage),
        }

    @property
    def _id(self) -> str:
        return f"chatcmpl-{self._started.request_id}"

    def _chunk(self, choices: list[ChunkChoiceAnswer]) -> ChatChunk:
        return {
            "id": self._id,
            "object": "chat.completion.chunk",
            "created": self._started.created_s,
            "model": self._started.model,
            "system_fingerprint": self._started.fingerprint,
            "seed": self._started.seed,
            "choices": choices,
        }

    def _chunk_choice(self, update: ChatUpdate) -> ChunkChoiceAnswer:
        pieces = self._pieces.get(update.choice)
        if pieces is None:
            pieces = MessagePieces(self._started.request_id, update.choice, self._shows_reasoning)
            self._pieces[update.choice] = pieces
        return {
            "index": update.choice,
            "delta": pieces.piece(update),
            "logprobs": logprobs_answer(update.logprobs, self._tokenizer) if self._has_logprobs else None,
            "finish_reason": None if update.finish is None else update.finish.value,
        }


def usage_answer(usage: Usage) -> UsageAnswer:
    """Return OpenAI's usage object."""
    return {
        "prompt_tokens": usage.num_prompt,
        "completion_tokens": usage.num_completion,
        "total_tokens": usage.num_total,
        "prompt_tokens_details": {"cached_tokens": usage.num_cached},
        "completion_tokens_details": {"reasoning_tokens": usage.num_reasoning},
    }


def logprobs_answer(logprobs: tuple[TokenLogprob, ...], tokenizer: Tokenizer) -> LogprobsAnswer:
    """Return OpenAI's logprobs object of visible tokens."""
    content: list[LogprobAnswer] = []
    for logprob in logprobs:
        top = [_token_answer(token_id, value, tokenizer) for token_id, value in logprob.top]
        content.append({**_token_answer(logprob.token_id, logprob.logprob, tokenizer), "top_logprobs": top})
    return {"content": content}


def _token_answer(token_id: int, logprob: float, tokenizer: Tokenizer) -> TopLogprobAnswer:
    data = tokenizer.token_bytes(token_id)
    return {"token": data.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(data)}


def _fold_message(whole: MessageAnswer, piece: MessageAnswer) -> None:
    fields = cast(dict[str, Any], whole)
    for name, value in piece.items():
        if name == "tool_calls":
            _fold_calls(whole.setdefault("tool_calls", []), piece.get("tool_calls", []))
        elif name == "role":
            fields[name] = value
        else:
            fields[name] = (fields.get(name) or "") + cast(str, value)


def _fold_calls(whole: list[CallAnswer], pieces: list[CallAnswer]) -> None:
    for piece in pieces:
        if "id" in piece:
            whole.append(piece)
        else:
            whole[-1]["function"]["arguments"] += piece["function"]["arguments"]
