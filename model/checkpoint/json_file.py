"""Reading a JSON object from a checkpoint's file, with errors that name the file."""

import json
from pathlib import Path
from typing import cast

from model.errors import CheckpointDamaged, CheckpointMissing

MAX_JSON_BYTES = 64 * 1024 * 1024
"""An index of a model with 100,000 tensors is a sixth of this."""


def read_json_object(file: Path) -> dict[str, object]:
    """Return the JSON object in `file`; raises CheckpointMissing or CheckpointDamaged."""
    try:
        if file.stat().st_size > MAX_JSON_BYTES:
            raise CheckpointDamaged(
                file, None, f"is larger than {MAX_JSON_BYTES} bytes, too large for what it should be"
            )
        content = file.read_bytes()
    except FileNotFoundError:
        raise CheckpointMissing(file, None, "is missing") from None
    except OSError as error:
        raise CheckpointMissing(file, None, f"cannot be read: {error.strerror or error}") from error
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise CheckpointDamaged(file, None, f"is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise CheckpointDamaged(file, None, f"should hold a JSON object, not {type(document).__name__}")
    return cast("dict[str, object]", document)
