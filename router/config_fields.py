"""Which fields a section of the config has, so that a wrong name is answered with the right ones. Pure functions."""

import difflib
from collections.abc import Sequence

from pydantic import BaseModel


def fields_at(root: type[BaseModel], path: Sequence[str]) -> list[str] | None:
    """Return the names of the fields of the section at `path`, in their order; None if no section is there."""
    section = root
    for name in path:
        field = section.model_fields.get(name)
        if field is None or not isinstance(field.annotation, type) or not issubclass(field.annotation, BaseModel):
            return None
        section = field.annotation
    return list(section.model_fields)


def unknown_field(root: type[BaseModel], path: Sequence[str]) -> str | None:
    """Return what is wrong with a dotted path, and what might have been meant; None if `path` is a field.

    `engin.max_step_tokens` gives: no section `engin`; did you mean `engine`? There are: form, model, …
    """
    for depth, name in enumerate(path):
        known = fields_at(root, path[:depth])
        if known is None:
            return f"{'.'.join(path[:depth])} is a field, not a section: {name!r} cannot be below it"
        if name not in known:
            return _advice(".".join(path[:depth]), name, known, is_section=depth + 1 < len(path))
    return None


def section_advice(root: type[BaseModel], path: Sequence[str]) -> str | None:
    """Return that `path` is a section and which fields it has; None if it is none."""
    fields = fields_at(root, path)
    return None if fields is None else f"{'.'.join(path)} is a section; its fields are: {', '.join(fields)}"


def _advice(section: str, name: str, known: Sequence[str], *, is_section: bool) -> str:
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    hint = f"; did you mean {section}{'.' if section else ''}{nearest[0]}?" if nearest else "."
    place = f"{section} has no field" if section else f"there is no {'section' if is_section else 'section or field'}"
    return f"{place} {name!r}{hint} There are: {', '.join(known)}"
