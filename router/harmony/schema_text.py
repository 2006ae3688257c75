"""A JSON schema as TypeScript text: references resolved, unions, constants and every enum kept.

openai-harmony's own rendering turns `$ref`, `anyOf`, `const` and enums of numbers into `any` or `number`; schemas made
by pydantic are full of them. What it renders without loss is rendered the same here: that is what the model has seen.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, cast

from router.harmony.conversation import JsonObject
from router.harmony.schema_refs import SchemaReader, as_mapping, as_sequence

_IDENTIFIER = re.compile(r"[A-Za-z_$][A-Za-z0-9_$-]*")
_SIMPLE = {"string": "string", "integer": "number", "number": "number", "boolean": "boolean", "null": "null"}
_STEP, _VARIANT_STEP = "    ", "   "


def parameters_text(schema: JsonObject, path: str) -> str | None:
    """Return the type of a function's one argument, or None if it takes nothing.

    Raises InvalidRequest naming the place of what cannot be rendered, below `path`.
    """
    writer = _Writer(SchemaReader(schema, path))
    text = writer.type_of(schema, "", path)
    return None if text in {"any", "object"} else text


class _Writer:
    """Writes the types of one schema. `indent` begins each line of a block that a type opens, its last one too."""

    def __init__(self, reader: SchemaReader) -> None:
        self._reader = reader

    def type_of(self, schema: Any, indent: str, path: str) -> str:
        """Return the type on one line, but for the lines that objects have."""
        with self._reader.resolved(schema, path) as resolved:
            text = self._resolved_type(resolved, indent, path)
        return f"{text} | null" if resolved.get("nullable") is True and text != "any" else text

    def _resolved_type(self, schema: JsonObject, indent: str, path: str) -> str:
        if "$ref" in schema:
            return f"any /* {str(schema['$ref']).rpartition('/')[2]} again */"
        if "const" in schema:
            return _literal(schema["const"])
        if "enum" in schema:
            return " | ".join(map(_literal, as_sequence(schema["enum"], f"{path}.enum"))) or "any"
        variants = _variants(schema, path)
        if variants:
            return _union([self.type_of(one, indent, where) for one, where in variants])
        kind = schema.get("type", "object" if "properties" in schema else None)
        if isinstance(kind, list):
            alone = {key: value for key, value in schema.items() if key != "type"}
            return _union([self.type_of({**alone, "type": one}, indent, path) for one in cast(list[Any], kind)])
        if kind == "array":
            return self._array(schema, indent, path)
        if kind == "object":
            return self._object(schema, indent, path)
        return _SIMPLE.get(kind, "any") if isinstance(kind, str) else "any"

    def _array(self, schema: JsonObject, indent: str, path: str) -> str:
        if "prefixItems" in schema:
            items = as_sequence(schema["prefixItems"], f"{path}.prefixItems")
            return "[" + ", ".join(self.type_of(item, indent, f"{path}.prefixItems") for item in items) + "]"
        if "items" not in schema:
            return "Array<any>"
        item = self.type_of(schema["items"], indent, f"{path}.items")
        return f"({item})[]" if _is_union(item) else f"{item}[]"

    def _object(self, schema: JsonObject, indent: str, path: str) -> str:
        properties = as_mapping(schema.get("properties", {}), f"{path}.properties")
        if not properties:
            rest = schema.get("additionalProperties")
            if not isinstance(rest, Mapping):
                return "object"
            return f"{{ [key: string]: {self.type_of(rest, indent, f'{path}.additionalProperties')} }}"
        required = as_sequence(schema.get("required", []), f"{path}.required")
        lines = [
            self._property(name, one, indent, f"{path}.properties.{name}", "" if name in required else "?")
            for name, one in properties.items()
        ]
        # The closing brace stands as deep as the properties: so did the text that the model was trained on.
        return "{\n" + "".join(lines) + indent + "}"

    def _property(self, name: str, schema: Any, indent: str, path: str, mark: str) -> str:
        key = (name if _IDENTIFIER.fullmatch(name) else json.dumps(name, ensure_ascii=False)) + mark
        with self._reader.resolved(schema, path) as resolved:
            comment, default = _comment(resolved, indent), _default(resolved)
            variants = [] if {"enum", "const"} & resolved.keys() else _variants(resolved, path)
            if len([one for one, _ in variants if not _is_null(one)]) < 2:
                note = f" // default: {default}" if default else ""
                return f"{comment}{indent}{key}: {self.type_of(resolved, indent + _STEP, path)},{note}\n"
            comment += f"{indent}// default: {default}\n" if default else ""
            inner = indent + _VARIANT_STEP
            lines = [f"{indent} | {self.type_of(one, inner, where)}{_remark(one)}\n" for one, where in variants]
            return f"{comment}{indent}{key}:\n{''.join(lines)}{indent},\n"


def _variants(schema: JsonObject, path: str) -> list[tuple[Any, str]]:
    """Return the alternatives of a union, each with its place."""
    for keyword in ("oneOf", "anyOf"):
        if keyword in schema:
            places = enumerate(as_sequence(schema[keyword], f"{path}.{keyword}"))
            return [(one, f"{path}.{keyword}[{place}]") for place, one in places]
    return []


def _union(texts: list[str]) -> str:
    return " | ".join(dict.fromkeys(texts)) or "any"


def _is_union(text: str) -> bool:
    """Return whether a bar stands outside of the type's brackets."""
    depth = 0
    for character in text:
        depth += (character in "{[(<") - (character in "}])>")
        if character == "|" and depth == 0:
            return True
    return False


def _is_null(schema: Any) -> bool:
    return isinstance(schema, Mapping) and cast(JsonObject, schema).get("type") == "null"


def _literal(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _comment(schema: JsonObject, indent: str) -> str:
    """Return title, description and examples as comment lines."""
    title, description, examples = schema.get("title"), schema.get("description"), schema.get("examples")
    paragraphs = [text.splitlines() for text in (title, description) if isinstance(text, str) and text]
    if isinstance(examples, list) and examples:
        paragraphs.append(["Examples:", *(f"- {_literal(one)}" for one in cast(list[Any], examples))])
    lines: list[str] = []
    for paragraph in paragraphs:
        lines += ([""] if lines else []) + paragraph
    return "".join(f"{indent}// {line}".rstrip() + "\n" for line in lines)


def _default(schema: JsonObject) -> str:
    """Return the default as the comment says it: bare for an enum's string, JSON otherwise."""
    if "default" not in schema:
        return ""
    value = schema["default"]
    return value if isinstance(value, str) and "enum" in schema and "\n" not in value else _literal(value)


def _remark(variant: Any) -> str:
    """Return a variant's own description behind it."""
    text = cast(JsonObject, variant).get("description") if isinstance(variant, Mapping) else None
    return f" // {' '.join(text.split())}" if isinstance(text, str) and text else ""
