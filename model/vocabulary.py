"""The o200k_harmony vocabulary: ranks shipped inside the package, special tokens, and the pattern that splits text.

Nothing is ever downloaded. `vocabulary_dir` writes the ranks where other libraries look for them.
"""

import binascii
import gzip
import hashlib
import os
import tempfile
from functools import cache
from importlib import resources
from pathlib import Path

from model.errors import TokenizerError

RANKS_FILE = "o200k_base.tiktoken"
RANKS_SHA256 = "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"
NUM_RANKS = 199_998
VOCAB_SIZE = 201_088
"""Ids of the published models: ranks, then special tokens, named or reserved."""

START_OF_TEXT = 199_998
END_OF_TEXT = 199_999
RETURN = 200_002
CONSTRAIN = 200_003
CHANNEL = 200_005
START = 200_006
END = 200_007
MESSAGE = 200_008
CALL = 200_012
END_OF_PROMPT = 200_018

_NAMES = {
    START_OF_TEXT: "startoftext",
    END_OF_TEXT: "endoftext",
    RETURN: "return",
    CONSTRAIN: "constrain",
    CHANNEL: "channel",
    START: "start",
    END: "end",
    MESSAGE: "message",
    CALL: "call",
    END_OF_PROMPT: "endofprompt",
}
SPECIAL_TOKENS = {f"<|{_NAMES.get(i, f'reserved_{i}')}|>": i for i in range(NUM_RANKS, VOCAB_SIZE)}
"""Ids by text. Reserved ids are spelled `<|reserved_N|>`."""

_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_BEFORE_WORD = r"[^\r\n\p{L}\p{N}]?"
SPLIT_PATTERN = "|".join(
    (
        f"{_BEFORE_WORD}{_UPPER}*{_LOWER}+{_CONTRACTION}",
        f"{_BEFORE_WORD}{_UPPER}+{_LOWER}*{_CONTRACTION}",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)
"""Splits text into pieces that are merged alone; it belongs to the ranks as the grammar belongs to a dictionary."""


def load_ranks() -> dict[bytes, int]:
    """Return rank by token; raises TokenizerError if the shipped file is not the published one."""
    encoded = _ranks_document().split()[::2]  # lines of `base64 rank`, in the order of rank
    return {token: rank for rank, token in enumerate(map(binascii.a2b_base64, encoded))}


def vocabulary_dir(cache_dir: str | Path) -> Path:
    """Return a directory in `cache_dir` that holds `o200k_base.tiktoken`, written there once.

    It is what openai-harmony asks for in TIKTOKEN_ENCODINGS_BASE. Processes may race: a file appears whole or not.
    """
    directory = Path(cache_dir) / "vocabulary"
    file = directory / RANKS_FILE
    document = _ranks_document()
    if file.exists() and file.read_bytes() == document:
        return directory
    directory.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=directory, prefix=f".{RANKS_FILE}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(document)
        Path(partial).chmod(0o644)
        Path(partial).replace(file)
    finally:
        Path(partial).unlink(missing_ok=True)
    return directory


@cache
def _ranks_document() -> bytes:
    """Return the published file, unpacked and checked."""
    resource = resources.files("model") / "data" / f"{RANKS_FILE}.gz"
    try:
        document = gzip.decompress(resource.read_bytes())
    except (OSError, EOFError) as error:
        raise TokenizerError(f"the vocabulary {resource} cannot be read: {error}") from error
    digest = hashlib.sha256(document).hexdigest()
    if digest != RANKS_SHA256:
        raise TokenizerError(f"the vocabulary {resource} has SHA-256 {digest}, not {RANKS_SHA256}")
    return document
