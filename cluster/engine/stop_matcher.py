"""StopMatcher: stop strings over text that arrives in pieces. Pure; the engine and the router both use it."""

from collections.abc import Sequence


class StopMatcher:
    """Finds the first stop string to be complete, wherever the pieces are cut.

    >>> matcher = StopMatcher(["END"])
    >>> matcher.push("the E"), matcher.push("N"), matcher.push("D of it")
    (('the ', None), ('', None), ('', 'END'))
    """

    def __init__(self, stops: Sequence[str]) -> None:
        """Look for `stops`, none of them empty; without any, all text passes at once."""
        assert all(stops), f"an empty stop string matches everywhere: {stops!r}"
        self._stops = tuple(stops)
        self._held = ""
        self._matched: str | None = None

    def push(self, text: str) -> tuple[str, str | None]:
        """Return the text that is now known to lie before any stop string, and the stop string if one is complete.

        Text that may yet become a stop string is held back. Of several that end at the same character the longest
        counts. After a match nothing more comes: the matched string and what follows are swallowed.
        """
        if self._matched is not None:
            return "", self._matched
        text = self._held + text
        found = [(text.index(stop) + len(stop), -len(stop), stop) for stop in self._stops if stop in text]
        if found:
            end, _, self._matched = min(found)
            self._held = ""
            return text[: end - len(self._matched)], self._matched
        cut = len(text) - self._num_held(text)
        self._held = text[cut:]
        return text[:cut], None

    def flush(self) -> str:
        """Return the text held back, which nothing will complete any more, and start afresh."""
        rest, self._held = self._held, ""
        self._matched = None
        return rest

    def _num_held(self, text: str) -> int:
        """Return the length of the longest end of `text` that a stop string begins with."""
        longest = min(len(text), max(map(len, self._stops), default=1) - 1)
        for length in range(longest, 0, -1):
            tail = text[-length:]
            if any(stop.startswith(tail) for stop in self._stops):
                return length
        return 0
