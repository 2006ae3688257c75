"""The two things a parser holds: a header that is being written, or a message whose text is coming."""

import codecs
import json
from collections.abc import Iterator
from dataclasses import dataclass, field

from router.harmony.deltas import (
    CallBegun,
    CallDelta,
    ContentDelta,
    Delta,
    Ending,
    MessageBegun,
    MessageEnded,
    ReasoningDelta,
)
from router.harmony.deltas import MessageKind as Kind
from router.harmony.header import Header, Marker, could_be_header, read_header
from router.harmony.recipients import CallableTools

_new_decoder = codecs.getincrementaldecoder("utf-8")


@dataclass(slots=True)
class OpenHeader:
    """The tokens of a header so far."""

    is_explicit: bool = False
    """Opened by a `<|start|>` of the model's own: then prose is expected only where the header never ends."""
    markers: list[Marker] = field(default_factory=lambda: [Marker.START])
    texts: list[bytearray] = field(default_factory=lambda: [bytearray()])
    positions: list[int] = field(default_factory=list[int])
    """Of its tokens with text."""

    def mark(self, marker: Marker) -> None:
        """Begin the part behind `marker`."""
        self.markers.append(marker)
        self.texts.append(bytearray())

    def feed(self, data: bytes, position: int) -> None:
        """Take a token's bytes."""
        self.texts[-1] += data
        self.positions.append(position)

    def read(self) -> Header:
        """Return what the header says so far."""
        return read_header(self._parts())

    def salvage(self) -> Header:
        """Return the header for what it is when no `<|message|>` will come: its leftover is the message's text."""
        header, text = self.read(), self._parts()[0][1]
        is_bare = len(self.markers) == 1 and not self.is_explicit and header.recipient is None
        if is_bare and header.channel != "analysis" and header.leftover:
            # A sentence may begin with a word that a header could have had.
            header.leftover = text
        return header

    @property
    def is_prose(self) -> bool:
        """Return whether this text, before any marker, cannot become a header any more."""
        if self.is_explicit or len(self.markers) > 1:
            return False
        # A character may be cut in two between tokens: what there is of it decides nothing yet.
        return not could_be_header(self.texts[0].decode("utf-8", "ignore"))

    def _parts(self) -> list[tuple[Marker, str]]:
        texts = (text.decode("utf-8", "replace") for text in self.texts)
        return list(zip(self.markers, texts, strict=True))


class OpenMessage:
    """A message whose text is coming: bytes in, deltas out, no character torn."""

    def __init__(self, message: int, kind: Kind, call: int = 0, is_code: bool = False) -> None:
        """Open message number `message`; `is_code` wraps the text of a call as `{"code": "…"}`."""
        self.kind = kind
        self._message = message
        self._call = call
        self._is_code = is_code
        self._decoder = _new_decoder("replace")
        self._positions: list[int] = []

    def begin(self, name: str | None) -> Iterator[Delta]:
        """Yield the opening; a call has a name."""
        yield MessageBegun(self._message, self.kind)
        if name is not None:
            yield CallBegun(self._message, self._call, name)
            if self._is_code:
                yield CallDelta(self._message, self._call, '{"code": "', ())

    def feed(self, data: bytes, position: int) -> Delta | None:
        """Take a token's bytes; return the text that they complete, if any."""
        self._positions.append(position)
        text = self._decoder.decode(data)
        return self._delta(text) if text else None

    def feed_text(self, text: str, positions: list[int]) -> Delta:
        """Take text that was thought to be a header's."""
        self._positions += positions
        return self._delta(text)

    def end(self, ending: Ending) -> Iterator[Delta]:
        """Yield what is left, an incomplete character as U+FFFD, and the end."""
        rest = self._decoder.decode(b"", final=True)
        if rest:
            yield self._delta(rest)
        if self._is_code:
            yield CallDelta(self._message, self._call, '"}', ())
        yield MessageEnded(self._message, ending)

    def _delta(self, text: str) -> Delta:
        positions = tuple(self._positions)
        self._positions.clear()
        if self.kind is Kind.REASONING:
            return ReasoningDelta(self._message, text, positions)
        if self.kind is not Kind.CALL:
            return ContentDelta(self._message, text, positions)
        written = json.dumps(text, ensure_ascii=False)[1:-1] if self._is_code else text
        return CallDelta(self._message, self._call, written, positions)


def kind_of(header: Header, tools: CallableTools) -> tuple[Kind, str | None]:
    """Return what a message with `header` is, and the name of the tool that it calls.

    A call although nothing may be called is content: the client could not answer it, and its text must not vanish.
    """
    if header.is_foreign:
        return Kind.REASONING, None
    name = tools.resolve(header.recipient)
    if name is not None:
        return Kind.CALL, name
    if header.channel == "analysis" and not _is_call(header):
        return Kind.REASONING, None
    if header.channel == "commentary" and not _is_call(header):
        return Kind.PREAMBLE, None
    return Kind.ANSWER, None


def _is_call(header: Header) -> bool:
    return CallableTools(has_python=True).resolve(header.recipient) is not None
