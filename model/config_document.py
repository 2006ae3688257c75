"""ConfigDocument: a JSON object read field by field, where each wrong field is a ConfigError naming it."""

import math
from collections.abc import Mapping, Sequence

from model.errors import ConfigError

MAX_INT = 2**31 - 1
"""No count, size or id of a model is larger."""


class ConfigDocument:
    """Typed access to the fields of a JSON object; `prefix` names the object it lies in."""

    def __init__(self, values: Mapping[str, object], prefix: str = "") -> None:
        self._values = values
        self._prefix = prefix

    def has(self, field: str) -> bool:
        """Return whether `field` is there and not null."""
        return self._values.get(field) is not None

    def error(self, field: str, problem: str) -> ConfigError:
        """Return the error that says `problem` of `field` and its value."""
        return ConfigError(self._prefix + field, self._values.get(field), problem)

    def positive_int(self, field: str, max_value: int = MAX_INT) -> int:
        """Return an integer from 1 to `max_value`."""
        value = self._required(field)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= max_value:
            raise self.error(field, f"must be an integer from 1 to {max_value}")
        return value

    def positive_float(self, field: str, default: float | None = None) -> float:
        """Return a finite number above 0, or `default` where the field is missing."""
        if default is not None and not self.has(field):
            return default
        value = self._required(field)
        if isinstance(value, bool) or not isinstance(value, int | float) or not (math.isfinite(value) and value > 0):
            raise self.error(field, "must be a finite number above 0")
        return float(value)

    def flag(self, field: str, default: bool) -> bool:
        """Return a boolean, or `default` where the field is missing."""
        value = self._values.get(field)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.error(field, "must be true or false")
        return value

    def token_ids(self, field: str) -> tuple[int, ...] | None:
        """Return one id or a list of ids, without repeats; None where the field is missing."""
        value = self._values.get(field)
        if value is None:
            return None
        candidates: list[object] = value if isinstance(value, list) else [value]
        ids: dict[int, None] = {}
        for token_id in candidates:
            if isinstance(token_id, bool) or not isinstance(token_id, int) or not 0 <= token_id <= MAX_INT:
                raise self.error(field, "must be a token id, or a list of them")
            ids[token_id] = None
        return tuple(ids)

    def sequence(self, field: str) -> Sequence[object]:
        """Return a list."""
        value = self._required(field)
        if not isinstance(value, list):
            raise self.error(field, "must be a list")
        return value

    def section(self, field: str) -> "ConfigDocument":
        """Return the object in `field`."""
        value = self._required(field)
        if not isinstance(value, dict):
            raise self.error(field, "must be an object")
        return ConfigDocument(value, f"{self._prefix}{field}.")

    def expect(self, field: str, *allowed: object) -> None:
        """Refuse any value of `field` that is not among `allowed`; missing or null is the default and passes."""
        value = self._values.get(field)
        if value is not None and value not in allowed:
            names = " or ".join(map(repr, allowed))
            raise self.error(field, f"not supported; only {names} is" if allowed else "not supported")

    def _required(self, field: str) -> object:
        value = self._values.get(field)
        if value is None:
            raise self.error(field, "is missing")
        return value
