"""Random JSON schemas whose texts have an end: strings, arrays and objects of bounded length."""

import random
from typing import Any

PATTERNS = ("^[a-f]{2,6}$", "^\\d{3}-\\d{2}$", "^(yes|no|maybe)$", "^[A-Z][a-z]{0,4}$")
FORMATS = ("date", "time", "date-time", "uuid", "ipv4")


def random_schema(chance: random.Random, depth: int = 3) -> dict[str, Any]:
    """Return an object schema, with definitions that parts of it refer to."""
    schema = _object(chance, depth)
    schema["$defs"] = {"leaf": _leaf(chance)}
    return schema


def _any(chance: random.Random, depth: int) -> dict[str, Any]:
    if depth <= 0 or chance.random() < 0.4:
        return _leaf(chance) if chance.random() < 0.85 else {"$ref": "#/$defs/leaf"}
    return chance.choice((_object, _array, _union, _tuple))(chance, depth - 1)


def _leaf(chance: random.Random) -> dict[str, Any]:
    low = chance.randint(-50, 50)
    kinds: list[dict[str, Any]] = [
        {"type": "integer", "minimum": low, "maximum": low + chance.randint(0, 500)},
        {"type": "number", "minimum": low, "exclusiveMaximum": low + chance.randint(1, 9)},
        {"type": "string", "minLength": chance.randint(0, 3), "maxLength": chance.randint(3, 12)},
        {"type": "string", "pattern": chance.choice(PATTERNS)},
        {"type": "string", "format": chance.choice(FORMATS)},
        {"enum": chance.sample(["a", "é \"q\"", 1, 2.5, None, True, ["x"], {"y": 1}], chance.randint(1, 4))},
        {"const": chance.choice(["only", 7, None, False])},
        {"type": ["boolean", "null"]},
    ]  # fmt: skip
    return chance.choice(kinds)


def _object(chance: random.Random, depth: int) -> dict[str, Any]:
    names = chance.sample(["a", "b c", "größe", "d_e", 'q"', "f.g", "h"], chance.randint(1, 5))
    return {
        "type": "object",
        "properties": {name: _any(chance, depth) for name in names},
        "required": chance.sample(names, chance.randint(0, len(names))),
        "additionalProperties": False,
    }


def _array(chance: random.Random, depth: int) -> dict[str, Any]:
    low = chance.randint(0, 2)
    return {"type": "array", "items": _any(chance, depth), "minItems": low, "maxItems": low + chance.randint(0, 3)}


def _tuple(chance: random.Random, depth: int) -> dict[str, Any]:
    items = [_any(chance, depth) for _ in range(chance.randint(1, 3))]
    return {"type": "array", "prefixItems": items, "items": False, "minItems": len(items)}


def _union(chance: random.Random, depth: int) -> dict[str, Any]:
    return {"anyOf": [_any(chance, depth) for _ in range(chance.randint(1, 3))]}
