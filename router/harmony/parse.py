"""The parser: a model's token ids to typed deltas, one id at a time, in linear time, never failing.

It knows seven control tokens and two states: in a header, or in a message's text.

                  <|message|>
      header ────────────────────▶ text ─▶ deltas
        ▲  prose where a header      │
        │  should be: at once        │ <|end|> <|call|> <|return|>   the message is over
        │                            │ <|start|> <|channel|>         its end token was forgotten
        └────────────────────────────┘

Whatever the model writes is delivered once: text without a header is content, a header that never ends gives its
leftover text, a channel that is misspelt is guessed, a recipient is matched against the tools that were offered. What
the model says in somebody else's name (an invented user or tool result) is reasoning, never an answer. Control tokens
that make no sense where they stand, and reserved ones, have no text and leave none.
"""

from collections.abc import Callable, Iterable

from model.vocabulary import CALL, CHANNEL, CONSTRAIN, END, END_OF_TEXT, MESSAGE, NUM_RANKS, RETURN, START
from router.harmony.deltas import Delta, Ending, MessageKind
from router.harmony.header import Header, Marker
from router.harmony.message import OpenHeader, OpenMessage, kind_of
from router.harmony.recipients import CallableTools

MAX_HEADER_TOKENS = 64
"""A header that is longer is none, and its text is delivered."""
_ENDINGS = {END: Ending.END, CALL: Ending.CALL, RETURN: Ending.RETURN, END_OF_TEXT: Ending.RETURN}
_MARKERS = {CHANNEL: Marker.CHANNEL, CONSTRAIN: Marker.CONSTRAIN}


class HarmonyParser:
    """Parses one turn of the assistant, which begins after `<|start|>assistant`.

    `token_bytes` gives the bytes of an ordinary id.
    """

    def __init__(self, token_bytes: Callable[[int], bytes], tools: CallableTools) -> None:
        self._token_bytes = token_bytes
        self._tools = tools
        self._position = 0
        self._header = OpenHeader()
        self._open: OpenMessage | None = None
        self._num_messages = 0
        self._num_calls = 0
        self.num_reasoning_tokens = 0
        """Tokens of reasoning text so far; headers and control tokens are not counted."""

    def push(self, token_id: int) -> list[Delta]:
        """Return what `token_id` adds."""
        position = self._position
        self._position += 1
        if self._open is not None:
            return self._push_text(self._open, token_id, position)
        return self._push_header(token_id, position)

    def push_all(self, token_ids: Iterable[int]) -> list[Delta]:
        """Return what several tokens add."""
        return [delta for token_id in token_ids for delta in self.push(token_id)]

    def finish(self) -> list[Delta]:
        """Return what is left when no more tokens come."""
        return self._close(Ending.CUT)

    def _push_text(self, message: OpenMessage, token_id: int, position: int) -> list[Delta]:
        if token_id < NUM_RANKS:
            self.num_reasoning_tokens += message.kind is MessageKind.REASONING
            delta = message.feed(self._token_bytes(token_id), position)
            return [] if delta is None else [delta]
        if token_id in _ENDINGS:
            return self._close(_ENDINGS[token_id])
        if token_id not in (START, CHANNEL):
            return []
        deltas = self._close(Ending.CUT)
        if token_id == START:
            self._header.is_explicit = True
        else:
            self._header.mark(Marker.CHANNEL)
        return deltas

    def _push_header(self, token_id: int, position: int) -> list[Delta]:
        header = self._header
        if token_id < NUM_RANKS:
            header.feed(self._token_bytes(token_id), position)
            if header.is_prose or len(header.positions) > MAX_HEADER_TOKENS:
                return self._salvage(header)
        elif token_id == MESSAGE:
            return self._begin(header.read())
        elif token_id in _MARKERS:
            header.mark(_MARKERS[token_id])
        elif token_id in _ENDINGS:
            return self._close(_ENDINGS[token_id])
        elif token_id == START:
            deltas = self._close(Ending.CUT)
            self._header.is_explicit = True
            return deltas
        return []

    def _begin(self, header: Header) -> list[Delta]:
        kind, name = kind_of(header, self._tools)
        is_code = name is not None and self._tools.is_code(name, header.content_type)
        message = OpenMessage(self._num_messages, kind, self._num_calls, is_code)
        self._open = message
        self._num_messages += 1
        self._num_calls += kind is MessageKind.CALL
        return list(message.begin(name))

    def _salvage(self, header: OpenHeader) -> list[Delta]:
        """Take a header for what it is, its leftover text for the beginning of a message; nothing if there is none."""
        said = header.salvage()
        if not said.leftover.strip() and not self._tools.resolve(said.recipient):
            return []
        deltas = self._begin(said)
        assert self._open is not None, "a message was begun"
        if said.leftover:
            self.num_reasoning_tokens += len(header.positions) if self._open.kind is MessageKind.REASONING else 0
            deltas.append(self._open.feed_text(said.leftover, header.positions))
        return deltas

    def _close(self, ending: Ending) -> list[Delta]:
        """End what is open, and expect a header."""
        deltas: list[Delta] = [] if self._open is not None else self._salvage(self._header)
        if self._open is not None:
            deltas += self._open.end(ending)
        self._open = None
        self._header = OpenHeader()
        return deltas
