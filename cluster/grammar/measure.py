"""Measures grammars on the whole vocabulary: `python -m cluster.grammar.measure` writes one JSON row a schema.

Times are of this process alone: compiling once the vocabulary is sorted, and the mask of each token of a random text
of the grammar.
"""

import json
import random
import statistics
import sys
import time
from typing import Any

import numpy as np

from cluster.grammar.constraint import GrammarKind, GrammarSpec
from cluster.grammar.limits import GrammarLimits
from cluster.grammar.llguidance_library import LlGuidance
from model.token_mask import allowed_ids

MAX_TOKENS = 400
NUM_COMPILES = 5


def schemas() -> dict[str, Any]:
    """Return schemas from small to large."""
    address = {
        "type": "object",
        "properties": {"street": {"type": "string"}, "zip": {"type": "string", "pattern": "^[0-9]{5}$"}},
        "required": ["street"],
    }
    medium = {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 40},
            "tags": {"type": "array", "items": {"enum": ["a", "b", "c"]}, "maxItems": 5},
            "address": {"$ref": "#/$defs/address"},
            "when": {"type": "string", "format": "date-time"},
            "share": {"type": "number", "minimum": 0, "maximum": 100},
        },
        "required": ["name", "tags", "address", "when"],
        "additionalProperties": False,
        "$defs": {"address": address},
    }
    many = {f"field_{number}": {"anyOf": [address, {"type": "integer", "minimum": number}]} for number in range(100)}
    return {
        "small": {"type": "object", "properties": {"answer": {"type": "integer"}}, "required": ["answer"]},
        "medium": medium,
        "large": {"type": "object", "properties": many, "required": list(many)[::2], "additionalProperties": False},
        "any object": {"type": "object"},
    }


def row(library: LlGuidance, name: str, schema: Any, seed: int) -> dict[str, Any]:
    """Return what one schema takes."""
    text = json.dumps(schema)
    spec = GrammarSpec(GrammarKind.JSON_SCHEMA, text)
    compile_ms: list[float] = []
    for _ in range(NUM_COMPILES):
        began = time.perf_counter()
        library.compile(spec)
        compile_ms.append(1e3 * (time.perf_counter() - began))
    chance, matcher = random.Random(seed), library.compile(spec)
    mask_us: list[float] = []
    for _ in range(MAX_TOKENS):
        began = time.perf_counter()
        words = matcher.words()
        mask_us.append(1e6 * (time.perf_counter() - began))
        ids = allowed_ids(words)
        if not ids.size:
            break
        matcher.advance(int(chance.choice(ids)))
    return {
        "schema": name,
        "chars": len(text),
        "compile_ms": round(statistics.median(compile_ms), 2),
        "num_masks": len(mask_us),
        "mask_us_median": round(statistics.median(mask_us), 1),
        "mask_us_p99": round(float(np.percentile(mask_us, 99)), 1),
        "mask_us_max": round(max(mask_us), 1),
    }


def main() -> None:
    """Write the rows."""
    library = LlGuidance(GrammarLimits())
    library.compile(GrammarSpec(GrammarKind.REGEX, "a"))
    for name, schema in schemas().items():
        sys.stdout.write(json.dumps(row(library, name, schema, seed=1)) + "\n")
    library.close()


if __name__ == "__main__":
    main()
