"""The rows of the vocabulary that the tiny model uses, and how those it only copies are made.

Of 201,088 rows a few hundred are words of the little world: they are trained. Some thousand are pieces of names that
the model only ever copies: their rows are frozen random directions, and one learnt linear map turns an input row into
its output row, so that copying works for every piece alike, also for one that training never showed. A piece with a
space before it is built from the pieces that spell it without the space. All other ids share one row.
"""

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from openai_harmony import HarmonyEncoding

from model.tiny.names import CITIES, PEOPLE, Names
from model.tiny.prompts import Prompts
from model.tiny.vocabulary import encode_plain
from model.tiny.world import World

NUM_TRAINED_NUMBERS = 199
"""Numbers from 0 that the model calculates with: sums of two numbers below 100."""
MOST_PIECES = 3
"""From so many pieces on, the classes of spaced pieces do not tell how many spell them without the space."""
SPACED_CLASSES = tuple(range(2 * MOST_PIECES))
BARE_CLASSES = (2 * MOST_PIECES, 2 * MOST_PIECES + 1)
NUM_CLASSES = 2 * MOST_PIECES + 4
PIECE_WEIGHTS = (1.0, 1.0, 0.7, 0.5)


@dataclass(frozen=True, slots=True)
class Rows:
    """Which token ids have a row of their own, ascending, and what kind of row each is."""

    ids: list[int]
    is_trained: np.ndarray
    """[R] bool: a word of the little world."""
    classes: np.ndarray
    """[R] i64: how the piece is spelt; rows of one class share a learnt offset."""
    directions: np.ndarray
    """[R, H] f32: the frozen direction of each row."""
    turns: np.ndarray
    """[P, H, H] f32: how the first, second ... piece of its spelling enters the direction of a piece with a space."""


def choose_rows(encoding: HarmonyEncoding, words: list[tuple[bytes, int]], names: Names, hidden: int) -> Rows:
    """Return the rows for the world's words and for pieces to copy, drawn from the vocabulary `words`."""
    texts = {token: text for text, token in words}
    trained = {token for token in _world_ids(encoding, names) if not _is_large_number(texts.get(token, b""))}
    real_names = _spellings(encoding, set(" ".join((*CITIES, *PEOPLE)).split()))
    # Facts name cities too, and names begin with letters: a row that training moves no longer spells as the others do.
    trained -= real_names | _spellings(encoding, set(string.ascii_uppercase))
    copied = {token for text, token in words if token < 5000 and re.fullmatch(rb" ?[A-Za-z]+|[_.][a-z]+", text)}
    copied |= real_names | _spellings(encoding, {*names.capitals, *names.smalls})
    copied |= {token for text, token in words if re.fullmatch(rb"[0-9]{1,3}", text)}
    ids = sorted(trained | copied)
    classes = np.array([_class(encoding, texts.get(token, b"<|>")) for token in ids])
    is_trained = np.array([token in trained for token in ids])
    return Rows(ids, is_trained, classes, *_directions(encoding, ids, texts, hidden))


def _spellings(encoding: HarmonyEncoding, words: set[str]) -> set[int]:
    """Return the ids that spell the words, with a space before them and without one."""
    return {token for word in words for spelling in (word, " " + word) for token in encode_plain(encoding, spelling)}


def _world_ids(encoding: HarmonyEncoding, names: Names) -> set[int]:
    """Return the ids that the world uses whatever the names are: those of worlds with two made-up pieces only."""
    prompts = Prompts(encoding)
    world = World(Names(("Zzyzx",), ("qwqw",), ("qwqw",), real_share=0.0), seed=0)
    ids: set[int] = set(encode_plain(encoding, "".join(chr(code) for code in range(32, 127))))
    for _ in range(2000):
        scene = world.scene()
        ids |= set(prompts.setting_ids(scene.setting))
        for exchange, _ in zip(world.exchanges(scene), range(4), strict=False):
            ids |= set(prompts.prompt_ids(exchange)) | set(prompts.completion_ids(exchange.completion))
    return ids


def _is_large_number(text: bytes) -> bool:
    return bool(re.fullmatch(rb"[0-9]{1,3}", text)) and (
        int(text) >= NUM_TRAINED_NUMBERS or str(int(text)) != text.decode()
    )


def _class(encoding: HarmonyEncoding, text: bytes) -> int:
    """Return the class of a piece: how it is spelt, and for one with a space, how many pieces spell it without."""
    patterns = (rb" [A-Z][A-Za-z]*", rb" [a-z]+", rb"[A-Z][A-Za-z]*", rb"[a-z]+", rb"[0-9]+")
    kind = next((place for place, one in enumerate(patterns) if re.fullmatch(one, text)), len(patterns))
    if kind > 1:
        return 2 * MOST_PIECES + kind - 2
    return kind * MOST_PIECES + min(len(encode_plain(encoding, text[1:].decode())), MOST_PIECES) - 1


def _directions(
    encoding: HarmonyEncoding, ids: list[int], texts: dict[int, bytes], hidden: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the directions [R, H] f32 of length 1, and the turns that compose those of pieces with a space."""
    random = np.random.Generator(np.random.PCG64(7))
    orthogonal = [np.linalg.qr(random.standard_normal((hidden, hidden)))[0] for _ in PIECE_WEIGHTS[1:]]
    turns = np.stack([np.eye(hidden), *orthogonal]).astype(np.float32)
    rows = {token: _unit(random.standard_normal(hidden, dtype=np.float32)) for token in ids}
    for token in ids:
        text = texts.get(token, b"")
        if re.fullmatch(rb" [A-Za-z]+", text):
            spelling = [
                piece for piece in encode_plain(encoding, text[1:].decode())[: len(PIECE_WEIGHTS)] if piece in rows
            ]
            rows[token] = direction_of([rows[piece] for piece in spelling], turns, rows[token])
    return np.stack([rows[token] for token in ids]), turns


def direction_of(pieces: Sequence[np.ndarray], turns: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Return the direction [H] f32 of a piece with a space, from those of the pieces that spell it and its own."""
    parts = (weight * turn @ piece for piece, turn, weight in zip(pieces, turns, PIECE_WEIGHTS, strict=False))
    return _unit(sum(parts, start=0.05 * own))


def _unit(row: np.ndarray) -> np.ndarray:
    return row / np.linalg.norm(row)
