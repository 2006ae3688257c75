"""One choice of a request: token events in, updates out. State machines without clock, task or wire.

Both apply stop strings to what the client sees: text before the string, and nothing after it, however tokens and
events are cut. A token's logprobs go with the text that it completes.
"""

import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Generic, TypeVar

from cluster.engine.sequence import FinishReason, TokenEvent
from cluster.engine.stop_matcher import StopMatcher
from model.sampling_params import TokenLogprob
from model.tokenizer import TextDecoder, Tokenizer
from model.vocabulary import NUM_RANKS
from router.errors import InvalidRequest, OutOfMemory, ServerFailure, Unavailable, tells_of_memory
from router.harmony.deltas import CallBegun, ContentDelta, Delta, Ending, MessageBegun, MessageEnded
from router.harmony.parse import HarmonyParser
from router.requests import ChatUpdate, Finish, TextUpdate

_log = logging.getLogger(__name__)
OUT_OF_MEMORY = (
    "The engine ran out of memory while it computed this request. Ask for less at once: a shorter prompt, a smaller n. "
    "Or have the server started with a smaller engine.max_step_tokens or engine.kv_cache_bytes."
)


class StopFilter:
    """Holds text back while it may become a stop string, and the positions of its tokens with it."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._matcher = StopMatcher(stops) if stops else None
        self._held: deque[tuple[int, int, tuple[int, ...]]] = deque()
        """(where its text starts, where it ends, positions) of what is not out yet."""
        self._num_fed = 0
        self._num_out = 0
        self.matched: str | None = None
        """The stop string that was found."""

    @property
    def has_matched(self) -> bool:
        """Return whether a stop string was found."""
        return self.matched is not None

    def feed(self, text: str, positions: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
        """Return the text that may be shown now, and the positions of the tokens that it completes."""
        if self._matcher is None:
            return text, positions
        self._held.append((self._num_fed, self._num_fed + len(text), positions))
        self._num_fed += len(text)
        shown, self.matched = self._matcher.push(text)
        return shown, self._released(len(shown))

    def flush(self) -> tuple[str, tuple[int, ...]]:
        """Return what is held back when the message is over, and start afresh."""
        if self._matcher is None:
            return "", ()
        rest = self._matcher.flush()
        return rest, self._released(len(rest))

    def _released(self, num_shown: int) -> tuple[int, ...]:
        self._num_out += num_shown
        positions: list[int] = []
        while self._held and self._held[0][1] <= self._num_out:
            positions += self._held.popleft()[2]
        if self.has_matched and self._held and self._held[0][0] < self._num_out:
            # The stop string begins inside of this token: what is before it was shown.
            positions += self._held.popleft()[2]
        return tuple(positions)


U = TypeVar("U", ChatUpdate, TextUpdate)


class Choice(ABC, Generic[U]):
    """What both kinds share: counting, logprobs by position, the end."""

    def __init__(self, choice: int) -> None:
        self.choice = choice
        self.num_tokens = 0
        """Tokens that count: up to the one that completed a stop string."""
        self.num_cached = 0
        self.finish: Finish | None = None
        self._logprobs: dict[int, TokenLogprob] = {}

    @abstractmethod
    def on(self, event: TokenEvent) -> U | None:
        """Return what an event adds, None if nothing can be seen; raises RequestError if it tells of a failure."""

    @property
    def num_reasoning(self) -> int:
        """Return the tokens of reasoning so far."""
        return 0

    def _open(self, event: TokenEvent) -> None:
        """Take what an event says beside its tokens; raises RequestError if it tells of a failure."""
        if event.finish_reason is FinishReason.ERROR:
            _log.error("sequence %s failed: %s", event.sequence_id, event.error)
            if tells_of_memory(event.error):
                raise OutOfMemory(OUT_OF_MEMORY)
            raise ServerFailure("The engine failed at this request.")
        if event.finish_reason is FinishReason.REFUSED:
            why = event.error or "structured_outputs: it cannot be followed"
            raise InvalidRequest(f"{why}.", why.partition(": ")[0], "invalid_grammar")
        if event.finish_reason is FinishReason.UNAVAILABLE:
            _log.warning("sequence %s was lost: %s", event.sequence_id, event.error)
            raise Unavailable("A part of the cluster was lost while the request ran. Try again.", retry_after_s=1)
        if event.finish_reason is FinishReason.ABORT:
            raise Unavailable("The engine gave this request up before it was done. Try again.", retry_after_s=1)
        if self.num_tokens == 0:
            self.num_cached = event.num_cached
        for offset, logprob in enumerate(event.logprobs):
            self._logprobs[event.index + offset] = logprob

    def _take_logprobs(self, positions: Sequence[int]) -> tuple[TokenLogprob, ...]:
        found = (self._logprobs.pop(position, None) for position in positions)
        return tuple(logprob for logprob in found if logprob is not None)


def _stops_at_text(event: TokenEvent) -> bool:
    """Return whether the last token is a stop id of the client's that has text: it is not part of the answer."""
    return isinstance(event.stop_reason, int) and event.stop_reason < NUM_RANKS


class ChatChoice(Choice[ChatUpdate]):
    """A choice of a chat: tokens through the harmony parser."""

    def __init__(
        self, choice: int, parser: HarmonyParser, stops: Sequence[str], has_parallel_calls: bool = True
    ) -> None:
        """End at a stop string; without `has_parallel_calls`, also behind the first call."""
        super().__init__(choice)
        self._parser = parser
        self._filter = StopFilter(stops)
        self._has_parallel_calls = has_parallel_calls
        self._has_calls = False

    @property
    def num_reasoning(self) -> int:
        """Return the tokens of reasoning so far."""
        return self._parser.num_reasoning_tokens

    def on(self, event: TokenEvent) -> ChatUpdate | None:
        """Return the deltas that an event adds."""
        self._open(event)
        out: list[Delta] = []
        last = len(event.token_ids) - 1
        for place, token_id in enumerate(event.token_ids):
            self.num_tokens += 1
            if place == last and _stops_at_text(event):
                break
            self._take(self._parser.push(token_id), out)
            if self.finish is not None:
                break
        if event.finish_reason is not None and self.finish is None:
            self._take(self._parser.finish(), out)
            self.finish = self.finish or self._reason(event.finish_reason)
        if not out and self.finish is None:
            return None
        positions = [at for delta in out if isinstance(delta, ContentDelta) for at in delta.positions]
        logprobs = self._take_logprobs(positions) if self._logprobs else ()
        return ChatUpdate(self.choice, tuple(out), logprobs, self.finish, self._filter.matched)

    def _reason(self, reason: FinishReason) -> Finish:
        if reason is FinishReason.LENGTH:
            return Finish.LENGTH
        return Finish.TOOL_CALLS if self._has_calls else Finish.STOP

    def _take(self, deltas: list[Delta], out: list[Delta]) -> None:
        """Pass deltas on, content through the stop filter; ends the choice at a stop string or behind the only call."""
        for delta in deltas:
            if self._is_one_call_too_many(delta):
                self.finish = Finish.TOOL_CALLS
                return
            if isinstance(delta, ContentDelta):
                text, positions = self._filter.feed(delta.text, delta.positions)
                if text or positions:
                    out.append(ContentDelta(delta.message, text, positions))
                if self._filter.has_matched:
                    out.append(MessageEnded(delta.message, Ending.CUT))
                    self.finish = Finish.STOP
                    return
                continue
            if isinstance(delta, MessageEnded):
                text, positions = self._filter.flush()
                if text or positions:
                    out.append(ContentDelta(delta.message, text, positions))
            self._has_calls = self._has_calls or isinstance(delta, CallBegun)
            out.append(delta)

    def _is_one_call_too_many(self, delta: Delta) -> bool:
        """Return whether a message begins behind the only call that may be made."""
        return self._has_calls and not self._has_parallel_calls and isinstance(delta, MessageBegun)


class TextChoice(Choice[TextUpdate]):
    """A choice of a completion: tokens as text, control tokens left out."""

    def __init__(self, choice: int, tokenizer: Tokenizer, stops: Sequence[str], num_given: int = 0) -> None:
        """The first `num_given` tokens are the prompt's own: only their logprobs are told."""
        super().__init__(choice)
        self._num_given = num_given
        self._given: list[TokenLogprob] = []
        self._decoder = TextDecoder(tokenizer)
        self._filter = StopFilter(stops)
        self._token_ids: dict[int, int] = {}
        self._incomplete: list[int] = []
        self._position = 0

    def on(self, event: TokenEvent) -> TextUpdate | None:
        """Return the text that an event adds, or that of its tokens that are not given."""
        num_given = min(max(self._num_given - event.index, 0), len(event.token_ids))
        if num_given == 0:
            return self._on_own(replace(event, index=event.index - self._num_given) if self._num_given else event)
        self._given += event.logprobs[:num_given]
        own = replace(event, index=0, token_ids=event.token_ids[num_given:], logprobs=event.logprobs[num_given:])
        update = self._on_own(own)
        if len(self._given) < self._num_given:
            return update
        return replace(update or TextUpdate(self.choice, ""), prompt_logprobs=tuple(self._given))

    def _on_own(self, event: TokenEvent) -> TextUpdate | None:
        self._open(event)
        texts: list[str] = []
        positions: list[int] = []
        last = len(event.token_ids) - 1
        for place, token_id in enumerate(event.token_ids):
            self.num_tokens += 1
            if not (place == last and _stops_at_text(event)):
                self._feed(token_id, texts, positions)
            if self._filter.has_matched:
                self.finish = Finish.STOP
                break
        if event.finish_reason is not None and self.finish is None:
            self._end(texts, positions)
            self.finish = Finish.LENGTH if event.finish_reason is FinishReason.LENGTH else Finish.STOP
        if not positions and self.finish is None and not any(texts):
            return None
        token_ids = tuple(self._token_ids.pop(at) for at in positions)
        return TextUpdate(self.choice, "".join(texts), token_ids, self._take_logprobs(positions), self.finish)

    def _feed(self, token_id: int, texts: list[str], positions: list[int]) -> None:
        position = self._position
        self._position += 1
        if token_id >= NUM_RANKS:
            return
        self._token_ids[position] = token_id
        self._incomplete.append(position)
        self._show(self._decoder.push(token_id), texts, positions)

    def _show(self, text: str, texts: list[str], positions: list[int]) -> None:
        if not text:
            return
        shown, completed = self._filter.feed(text, tuple(self._incomplete))
        self._incomplete.clear()
        texts.append(shown)
        positions += completed

    def _end(self, texts: list[str], positions: list[int]) -> None:
        self._show(self._decoder.flush(), texts, positions)
        if self._filter.has_matched:
            return
        rest, completed = self._filter.flush()
        texts.append(rest)
        positions += completed
