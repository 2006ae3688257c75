"""A message's header: role, recipient, channel, content type, read from whatever the model wrote there.

    assistant to=functions.f<|channel|>commentary <|constrain|>json          as the library renders it
    <|channel|>commentary to=functions.f <|constrain|>json                   as the model mostly writes it
    <|channel|>analysis to=functions.f code foo · <|channel|>finall · commentary to=f · I'm sorry, but …

`read_header` never fails. `could_be_header` says when text has stopped looking like a header and is prose.
"""

import difflib
import re
from dataclasses import dataclass
from enum import StrEnum

CHANNELS = ("analysis", "commentary", "final")
ASSISTANT = "assistant"
_ROLES = (ASSISTANT, "user", "system", "developer", "tool")
_CONTENT_TYPES = ("json", "code")
_OPENINGS = (*CHANNELS, *_CONTENT_TYPES, *_ROLES, "to=", "functions.")
_WORD = re.compile(r"\S+")
_GLUED_CONTENT_TYPE = re.compile(r"^json(?=[{\[])")


class Marker(StrEnum):
    """What opened a part of a header."""

    START = "start"
    CHANNEL = "channel"
    CONSTRAIN = "constrain"


@dataclass(slots=True)
class Header:
    """A header, read as well as it can be."""

    role: str = ASSISTANT
    channel: str | None = None
    recipient: str | None = None
    content_type: str | None = None
    leftover: str = ""
    """Text after the last word that belongs to a header: lost prose, if the header never ended."""

    @property
    def is_foreign(self) -> bool:
        """Return whether the model speaks for somebody else: a user, a tool."""
        return self.role != ASSISTANT

    def take(self, marker: Marker, word: str, is_first: bool) -> bool:
        """Take a word of the part behind `marker`; return whether it belongs to a header."""
        if self.recipient == "":
            self.recipient = word
        elif word.startswith("to="):
            self.recipient = word.removeprefix("to=")
        elif marker is Marker.CONSTRAIN and is_first:
            self.content_type = word
        elif word.startswith("<|constrain|>"):
            self.content_type = word.removeprefix("<|constrain|>")
        elif word in _CONTENT_TYPES:
            self.content_type = word
        else:
            return self._take_channel(marker, word, is_first) or self._take_role(marker, word, is_first)
        return True

    def _take_channel(self, marker: Marker, word: str, is_first: bool) -> bool:
        """Take a channel: whatever resembles one right after its marker, an exact name elsewhere."""
        glued = word.removeprefix(ASSISTANT)
        named = channel_named(word) if marker is Marker.CHANNEL and is_first else None
        named = named or (glued if glued in CHANNELS else None)
        self.channel = named or self.channel
        return named is not None

    def _take_role(self, marker: Marker, word: str, is_first: bool) -> bool:
        name = word.partition(":")[0].partition("<|")[0]
        if marker is not Marker.START or not is_first or not (name in _ROLES or name.startswith("functions.")):
            return False
        self.role = name
        return True


def read_header(parts: list[tuple[Marker, str]]) -> Header:
    """Return the header of `parts`: the text after `<|start|>`, after each `<|channel|>` and `<|constrain|>`."""
    header = Header()
    for marker, text in parts:
        end_of_header = 0
        is_unbroken = True
        for place, word in enumerate(_WORD.finditer(text)):
            is_taken = header.take(marker, word.group(), place == 0) if is_unbroken or "to=" in word.group() else False
            is_unbroken = is_unbroken and is_taken
            end_of_header = word.end() if is_unbroken else end_of_header
        header.leftover = _GLUED_CONTENT_TYPE.sub("", text[end_of_header:].lstrip())
        if marker is Marker.START and header.recipient == ASSISTANT and not header.is_foreign and text.split():
            # A result invented by the model: `browser.search to=assistant`.
            header.role = text.split()[0] if text.split()[0] != f"to={ASSISTANT}" else ASSISTANT
    return header


def could_be_header(text: str) -> bool:
    """Return whether `text`, before any marker, may still become a header; its last word may be cut short."""
    words = text.split()
    if not words:
        return True
    complete, last = (words, "") if text[-1].isspace() else (words[:-1], words[-1])
    return all(_is_header_word(word) for word in complete) and _is_header_start(last)


def channel_named(word: str) -> str | None:
    """Return the channel that `word` means, misspelt or decorated as it may be (`final?`, `finall`, `Final`)."""
    letters = re.sub(r"[^a-z]", "", word.partition("<|")[0].lower())[:32]
    for name in CHANNELS:
        if letters.startswith(name):
            return name
    close = difflib.get_close_matches(letters, CHANNELS, n=1, cutoff=0.7)
    return close[0] if close else None


def _is_header_word(word: str) -> bool:
    is_known = word in CHANNELS or word in _CONTENT_TYPES or word in _ROLES or word.removeprefix(ASSISTANT) in CHANNELS
    return is_known or word.startswith(("to=", "functions."))


def _is_header_start(word: str) -> bool:
    return any(opening.startswith(word) for opening in _OPENINGS) or word.startswith(ASSISTANT) or _is_header_word(word)
