"""Request bodies: read within limits, checked strictly, refused with the field and the value named.

A field that we do not know is accepted and named in a response header; one that we know and do not support is a 400.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, TypeVar, cast

from fastapi import Request
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from router.errors import InvalidRequest

MAX_NAMED_FIELDS = 20
MAX_SHOWN_CHARS = 120


class Part(BaseModel):
    """Any object of a body: strict types, finite numbers, unknown fields kept so that they can be named."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False, frozen=True)


class Body(Part):
    """A whole body."""

    unsupported: ClassVar[Mapping[str, str]] = {}
    """Fields that we know and do not support, and what to do instead."""


B = TypeVar("B", bound=Body)


async def read_body(request: Request, kind: type[B]) -> B:
    """Return the body as a `kind`; raises InvalidRequest naming field and value."""
    return parse_body(await request.body(), kind)


def parse_body(raw: bytes, kind: type[B]) -> B:
    """Return JSON as a `kind`; raises InvalidRequest naming field and value."""
    try:
        body = kind.model_validate_json(raw)
    except ValidationError as error:
        problems = _problems(error)
        if problems[0]["type"] == "json_invalid":
            message = f"The body is not JSON that can be read: {problems[0]['msg']}"
            raise InvalidRequest(message, code="invalid_json") from error
        raise _refusal(problems, json.loads(raw)) from error
    return _supported(body)


def checked_body(document: Mapping[str, Any], kind: type[B]) -> B:
    """Return what another family's body was put into as a `kind`; raises InvalidRequest naming field and value."""
    try:
        body = kind.model_validate(document)
    except ValidationError as error:
        raise _refusal(_problems(error), document) from error
    return _supported(body)


def _supported(body: B) -> B:
    for name, advice in body.unsupported.items():
        if (body.model_extra or {}).get(name) is not None:
            raise InvalidRequest(f"{name} is not supported. {advice}".rstrip(), name, "unsupported_parameter")
    return body


def ignored_fields(body: Part) -> list[str]:
    """Return the paths of fields that nothing reads, the first few."""
    return [path for path, _ in zip(_unread(body, ""), range(MAX_NAMED_FIELDS), strict=False)]


def _unread(part: Part, path: str) -> Iterator[str]:
    for name in part.model_extra or {}:
        yield path + name
    for name in type(part).model_fields:
        yield from _unread_below(getattr(part, name), f"{path}{name}")


def _unread_below(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, Part):
        yield from _unread(value, f"{path}.")
    elif isinstance(value, list):
        for place, one in enumerate(cast(list[Any], value)):
            yield from _unread_below(one, f"{path}[{place}]")


def _problems(error: ValidationError) -> list[ErrorDetails]:
    return error.errors(include_url=False, include_context=False)


def _refusal(problems: list[ErrorDetails], document: Any) -> InvalidRequest:
    # Where a value may be of several kinds, each kind complains. What was meant is the one that got furthest, and of
    # those the one that liked the type.
    found = [(_path(problem, document), problem) for problem in problems]
    path, problem = max(
        found, key=lambda one: (len(re.findall(r"[.\[]", one[0])), not one[1]["type"].endswith("_type"))
    )
    if problem["type"] == "missing":
        return InvalidRequest(f"{path} is missing.", path, "missing_required_parameter")
    return InvalidRequest(f"{path}: {problem['msg']} (value: {_shown(problem['input'])})", path, "invalid_value")


def _path(problem: ErrorDetails, document: Any) -> str:
    """Return the place of a problem as `messages[0].content`, without the names of kinds that were tried."""
    path, here = "", document
    for place, part in enumerate(problem["loc"]):
        is_last = place == len(problem["loc"]) - 1
        if isinstance(here, list) and isinstance(part, int):
            path, here = f"{path}[{part}]", cast(list[Any], here)[part]
        elif isinstance(here, dict) and (part in here or (is_last and problem["type"] == "missing")):
            path = f"{path}.{part}" if path else str(part)
            here = cast(dict[str, Any], here).get(str(part))
    return path or "body"


def _shown(value: Any) -> str:
    """Return the beginning of a value as the client's JSON spells it: `null`, not Python's None."""
    text = json.dumps(value, ensure_ascii=False, default=repr).encode(errors="backslashreplace").decode()
    return text if len(text) <= MAX_SHOWN_CHARS else f"{text[:MAX_SHOWN_CHARS]}…"
