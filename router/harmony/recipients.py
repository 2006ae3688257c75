"""From what the model wrote as a recipient to the tool that it means.

Models write `functions.get_weather`, `get_weather`, `functions/get_weather`, `Functions.functions.get_weather` or
`get_weather<|channel|>commentary` spelt out; all of them mean the tool of that name, if the request offers it.
"""

import re
from dataclasses import dataclass

PYTHON = "python"
MAX_NAME_CHARS = 64
_NOT_A_TOOL = frozenset({"", "assistant", "user", "system", "developer", "analysis", "commentary", "final", "all"})
_NAMESPACE = re.compile(r"^(?:functions?|tools?)[./:]", re.IGNORECASE)
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9_.-]+")


@dataclass(frozen=True, slots=True)
class CallableTools:
    """The tools that the answer to a request may call."""

    functions: frozenset[str] = frozenset()
    has_python: bool = False
    """The built-in python tool, whose calls are code and not JSON."""

    @property
    def is_empty(self) -> bool:
        """Return whether nothing may be called."""
        return not self.functions and not self.has_python

    def resolve(self, recipient: str | None) -> str | None:
        """Return the name of the tool that `recipient` means, or None if it means none.

        A name that was not offered is kept, cleaned: the client is told what the model called. If nothing was
        offered there is nothing to call, whatever the recipient.
        """
        if recipient is None or self.is_empty:
            return None
        written = recipient.partition("<|")[0].strip("\"'`,;:()").strip()
        if written.lower() in _NOT_A_TOOL:
            return None
        return self._offered(written) or _cleaned(written)

    def is_code(self, name: str, content_type: str | None) -> bool:
        """Return whether the body of a call to `name` is Python code rather than arguments."""
        is_json = content_type is not None and "json" in content_type
        return name == PYTHON and self.has_python and PYTHON not in self.functions and not is_json

    def _offered(self, written: str) -> str | None:
        known = self.functions | ({PYTHON} if self.has_python else set[str]())
        bare = written
        while True:
            for name in (bare, bare.rstrip(".?!")):
                if name in known:
                    return name
            shorter = _NAMESPACE.sub("", bare)
            if shorter == bare:
                break
            bare = shorter
        alike = [name for name in known if name.lower() == bare.lower()]
        return alike[0] if len(alike) == 1 else None


def _cleaned(written: str) -> str:
    name = written
    while (shorter := _NAMESPACE.sub("", name)) != name:
        name = shorter
    return _NOT_IN_A_NAME.sub("_", name)[:MAX_NAME_CHARS] or "unknown"
