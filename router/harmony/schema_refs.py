"""References and `allOf` of a JSON schema, followed within limits: a bomb of them is a 400 and no long wait."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

from router.errors import InvalidRequest
from router.harmony.conversation import JsonObject

MAX_DEPTH = 32
MAX_NODES = 5000


class SchemaReader:
    """Walks one schema; `path` names it in errors. It knows which references are open, so that no cycle is followed."""

    def __init__(self, root: JsonObject, path: str) -> None:
        self.root = root
        self.path = path
        self._num_nodes = 0
        self._depth = 0
        self._open_refs: list[str] = []

    @contextmanager
    def resolved(self, schema: Any, path: str) -> Generator[JsonObject]:
        """Give `schema` with its references followed and `allOf` merged, for as long as its parts are read.

        A reference to what is being read already stays in it. Raises InvalidRequest naming the place of a reference
        that leads nowhere, and of a schema that is too large.
        """
        num_open = len(self._open_refs)
        self._depth += 1
        try:
            yield self._resolve(as_mapping(schema, path), path)
        finally:
            self._depth -= 1
            del self._open_refs[num_open:]

    def _resolve(self, schema: JsonObject, path: str) -> JsonObject:
        self._num_nodes += 1
        if self._num_nodes > MAX_NODES or self._depth + len(self._open_refs) > MAX_DEPTH:
            raise unusable(path, f"is too large (at most {MAX_NODES} parts in {MAX_DEPTH} levels)")
        reference = schema.get("$ref")
        if isinstance(reference, str) and reference not in self._open_refs:
            self._open_refs.append(reference)
            beside = {key: value for key, value in schema.items() if key != "$ref"}
            return self._resolve({**self._target(reference, path), **beside}, path)
        if "allOf" not in schema:
            return schema
        merged = {key: value for key, value in schema.items() if key != "allOf"}
        for place, part in enumerate(as_sequence(schema["allOf"], f"{path}.allOf")):
            where = f"{path}.allOf[{place}]"
            _merge(merged, self._resolve(as_mapping(part, where), where))
        return merged

    def _target(self, reference: str, path: str) -> JsonObject:
        if not reference.startswith("#"):
            raise unusable(f"{path}.$ref", f"points outside of the schema: {reference[:200]!r}")
        target: Any = self.root
        for part in reference[1:].split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            target = cast(JsonObject, target).get(name) if isinstance(target, Mapping) else None
        if not isinstance(target, Mapping):
            raise unusable(f"{path}.$ref", f"points to nothing: {reference[:200]!r}")
        return cast(JsonObject, target)


def as_mapping(value: Any, path: str) -> JsonObject:
    """Return `value` as a schema: `true` is the one that allows anything."""
    if value is True:
        return {}
    if not isinstance(value, Mapping):
        raise unusable(path, f"is {value!r:.80}, which is no schema")
    return cast(JsonObject, value)


def as_sequence(value: Any, path: str) -> Sequence[Any]:
    """Return `value` if it is an array."""
    if not isinstance(value, list):
        raise unusable(path, f"is {value!r:.80}, which is no array")
    return cast(list[Any], value)


def unusable(path: str, why: str) -> InvalidRequest:
    """Return the error for the keyword at `path`."""
    return InvalidRequest(f"The JSON schema cannot be used: {path} {why}.", path, "invalid_schema")


def _merge(into: dict[str, Any], part: JsonObject) -> None:
    """Add a part of an `allOf`: properties and required names join, of anything else the first stays."""
    for key, value in part.items():
        if key == "properties" and isinstance(value, Mapping):
            into[key] = {**cast(JsonObject, value), **into.get(key, {})}
        elif key == "required" and isinstance(value, list):
            into[key] = [*into.get(key, []), *cast(list[Any], value)]
        else:
            into.setdefault(key, value)
