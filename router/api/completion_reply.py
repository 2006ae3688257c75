"""From updates to OpenAI's completion objects; a whole answer is the fold of what a stream would send."""

import codecs
from collections.abc import Iterator, Sequence

from model.sampling_params import TokenLogprob
from model.tokenizer import Tokenizer
from router.api.chat_reply import usage_answer
from router.api.completion_types import CompletionAnswer, CompletionChoice, TextLogprobs
from router.requests import Started, TextUpdate, Usage

_UTF8 = codecs.getincrementaldecoder("utf-8")


class CompletionReply:
    """The objects of one request's answer."""

    def __init__(
        self, started: Started, tokenizer: Tokenizer, echoed: Sequence[tuple[int, ...]], has_logprobs: bool
    ) -> None:
        """Answer with the text of `echoed[choice]` before each choice's: its prompt, if it is echoed."""
        self._started = started
        self._tokenizer = tokenizer
        self._echoed = dict(enumerate(echoed))
        self._has_logprobs = has_logprobs
        self._num_chars: dict[int, int] = {}
        self._whole: dict[int, CompletionChoice] = {}

    def chunk(self, update: TextUpdate) -> CompletionAnswer:
        """Return the stream event of an update."""
        return self._answer([self._choice(update)])

    def usage_chunk(self, usage: Usage) -> CompletionAnswer:
        """Return the stream event that tells the usage: no choices."""
        return {**self._answer([]), "usage": usage_answer(usage)}

    def fold(self, update: TextUpdate) -> None:
        """Add an update to the whole answer."""
        more = self._choice(update)
        whole = self._whole.setdefault(update.choice, more)
        if whole is more:
            return
        whole["text"] += more["text"]
        whole["finish_reason"] = more["finish_reason"]
        if whole["logprobs"] is not None and more["logprobs"] is not None:
            whole["logprobs"]["tokens"] += more["logprobs"]["tokens"]
            whole["logprobs"]["token_logprobs"] += more["logprobs"]["token_logprobs"]
            whole["logprobs"]["top_logprobs"] += more["logprobs"]["top_logprobs"]
            whole["logprobs"]["text_offset"] += more["logprobs"]["text_offset"]

    def answer(self, usage: Usage) -> CompletionAnswer:
        """Return the whole answer of the updates folded so far."""
        choices = [self._whole[choice] for choice in sorted(self._whole)]
        return {**self._answer(choices), "usage": usage_answer(usage)}

    def _answer(self, choices: list[CompletionChoice]) -> CompletionAnswer:
        return {
            "id": f"cmpl-{self._started.request_id}",
            "object": "text_completion",
            "created": self._started.created_s,
            "model": self._started.model,
            "system_fingerprint": self._started.fingerprint,
            "seed": self._started.seed,
            "choices": choices,
        }

    def _choice(self, update: TextUpdate) -> CompletionChoice:
        echoed = self._echoed.pop(update.choice, ())
        prefix = self._tokenizer.decode(echoed)
        offset = self._num_chars.get(update.choice, 0) + len(prefix)
        self._num_chars[update.choice] = offset + len(update.text)
        logprobs = self._logprobs(echoed, update, offset) if self._has_logprobs else None
        return {
            "index": update.choice,
            "text": prefix + update.text,
            "logprobs": logprobs,
            "finish_reason": None if update.finish is None else update.finish.value,
        }

    def _logprobs(self, echoed: tuple[int, ...], update: TextUpdate, offset: int) -> TextLogprobs:
        answer = TextLogprobs(tokens=[], token_logprobs=[], top_logprobs=[], text_offset=[])
        if echoed:
            # Nothing stands before the first token that could make it likely.
            self._add(answer, echoed[0], None, 0)
        for logprob, at in zip(update.prompt_logprobs, self._offsets(echoed), strict=False):
            self._add(answer, logprob.token_id, logprob, at)
        for logprob in update.logprobs:
            self._add(answer, logprob.token_id, logprob, offset)
            offset += len(answer["tokens"][-1])
        return answer

    def _offsets(self, token_ids: tuple[int, ...]) -> Iterator[int]:
        """Yield where the text of each token but the first begins."""
        decoder, offset = _UTF8("replace"), 0
        for token_id in token_ids[:-1]:
            offset += len(decoder.decode(self._tokenizer.token_bytes(token_id)))
            yield offset

    def _add(self, answer: TextLogprobs, token_id: int, logprob: TokenLogprob | None, offset: int) -> None:
        text = self._tokenizer.token_text
        answer["tokens"].append(text(token_id))
        answer["token_logprobs"].append(None if logprob is None else logprob.logprob)
        answer["top_logprobs"].append(None if logprob is None else {text(one): value for one, value in logprob.top})
        answer["text_offset"].append(offset)
