"""Where in a JSON schema it is that something is wrong: found by asking again about ever smaller parts of it."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

MAX_QUESTIONS = 400
_IN_MAPPINGS = ("$defs", "definitions", "properties", "patternProperties")
_IN_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_DIRECT = ("items", "additionalProperties", "additionalItems")
_REFERENCES = ("$defs", "definitions")
_KEYWORD_BY_MESSAGE = (
    (r"^Unknown format", "format"),
    (r"^Invalid type", "type"),
    (r"^regex parse error|^Failed to compile regex", "pattern"),
    (r"^Pointer|^Resource", "$ref"),
    (r"^patternProperty", "patternProperties"),
    (r"^min/maxProperties", "minProperties"),
)
"""What complaints are about that do not name their keyword."""
JsonObject = Mapping[str, Any]


def fault_path(schema: JsonObject, complaint: str, ask: Callable[[str], str | None]) -> str:
    """Return the path of the keyword that `complaint` is about, as `properties.a.items.not`; "" is the schema itself.

    `ask` returns the complaint about a schema (as text), or None if there is none.
    """
    path, here, num_asked = "", schema, 0
    is_smaller = True
    while is_smaller and num_asked < MAX_QUESTIONS:
        is_smaller = False
        for place, part in _parts(here):
            num_asked += 1
            if num_asked > MAX_QUESTIONS:
                break
            if ask(_alone(part, schema)) == complaint:
                path, here, is_smaller = f"{path}.{place}", part, True
                break
    return f"{path}.{_keyword(complaint, here)}".strip(".")


def depth_of(value: Any) -> int:
    """Return how deep arrays and objects are nested in a JSON value."""
    deepest = 0
    pending: list[tuple[Any, int]] = [(value, 1)]
    while pending:
        here, depth = pending.pop()
        if isinstance(here, dict | list):
            deepest = max(deepest, depth)
            inner = cast(dict[str, Any], here).values() if isinstance(here, dict) else cast(list[Any], here)
            pending += [(one, depth + 1) for one in inner]
    return deepest


def _parts(schema: JsonObject) -> Iterator[tuple[str, JsonObject]]:
    """Yield the schemas right below a schema, each with its place."""
    for keyword in _IN_MAPPINGS:
        inner = schema.get(keyword)
        if isinstance(inner, Mapping):
            for name, one in cast(JsonObject, inner).items():
                if isinstance(one, Mapping):
                    yield f"{keyword}.{name}", cast(JsonObject, one)
    for keyword in (*_IN_LISTS, *_DIRECT):
        inner = schema.get(keyword)
        if isinstance(inner, Mapping):
            yield keyword, cast(JsonObject, inner)
        elif isinstance(inner, list):
            for place, one in enumerate(cast(list[Any], inner)):
                if isinstance(one, Mapping):
                    yield f"{keyword}[{place}]", cast(JsonObject, one)


def _alone(part: JsonObject, root: JsonObject) -> str:
    """Return a part as a schema of its own, with the definitions that it may refer to."""
    definitions = {keyword: root[keyword] for keyword in _REFERENCES if keyword in root}
    return json.dumps({**definitions, **part})


def _keyword(complaint: str, schema: JsonObject) -> str:
    """Return the keyword of `schema` that a complaint is about, "" if it names none."""
    known = [keyword for pattern, keyword in _KEYWORD_BY_MESSAGE if re.search(pattern, complaint)]
    named = re.findall(r"[$\w]+", complaint)
    return next((keyword for keyword in (*known, *named) if keyword in schema), "")
