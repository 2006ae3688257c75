"""The harmony vocabulary for training and scoring, offline."""

import os
import tempfile
from functools import cache
from pathlib import Path

from openai_harmony import HarmonyEncoding, load_harmony_encoding

from model.tiny.names import Names, pieces
from model.vocabulary import load_ranks, vocabulary_dir

_BASE_VARIABLE = "TIKTOKEN_ENCODINGS_BASE"
MAX_CAPITAL_ID = 80000
MAX_SMALL_ID = 20000
MAX_NOUN_ID = 7000


@cache
def load_vocabulary() -> tuple[HarmonyEncoding, list[tuple[bytes, int]]]:
    """Return the harmony encoding, and the vocabulary as (token bytes, token id)."""
    before = os.environ.get(_BASE_VARIABLE)
    with tempfile.TemporaryDirectory(prefix="vocabulary-") as folder:
        os.environ[_BASE_VARIABLE] = str(vocabulary_dir(Path(folder)))
        try:
            encoding = load_harmony_encoding("HarmonyGptOss")
        finally:
            del os.environ[_BASE_VARIABLE]
            os.environ |= {_BASE_VARIABLE: before} if before is not None else {}
    return encoding, list(load_ranks().items())


def world_names(words: list[tuple[bytes, int]]) -> Names:
    """Return the pieces that the world's invented names are made of."""
    return pieces(words, MAX_CAPITAL_ID, MAX_SMALL_ID, MAX_NOUN_ID)


def encode_plain(encoding: HarmonyEncoding, text: str) -> list[int]:
    """Return the ids of a text without special tokens; looking for them, as `encode` does, takes a millisecond."""
    return encoding.encode(text, disallowed_special=())
