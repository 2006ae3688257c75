"""The rows of the vocabulary that the tiny model uses, and how those it only copies are made.

Of 201,088 rows a few hundred are words of the little world: they are trained. Some thousand are pieces of names that
the model only ever copies: their rows are frozen random directions, and one learnt linear map turns an input row into
its output row, so that copying works for every piece alike, also for one that training never showed. A piece with a
space before it is built from the pieces that spell it without the space. All other ids share one row.
"""

import re
from dataclasses import dataclass

import numpy as np
from openai_harmony import HarmonyEncoding

from model.tiny.names import CITIES, PEOPLE, Names
from model.tiny.prompts import Prompts
from model.tiny.world import World

NUM_TRAINED_NUMBERS = 199
"""Numbers from 0 that the model calculates with: sums of two numbers below 100."""
NUM_CLASSES = 6
PIECE_WEIGHTS = (1.0, 0.8, 0.6, 0.5)
MAX_FURTHER_CAPITAL_ID = 80000
MAX_FURTHER_SMALL_ID = 20000


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


def choose_rows(
    encoding: HarmonyEncoding, words: list[tuple[bytes, int]], names: Names, hidden: int
) -> tuple[Rows, Rows]:
    """Return the rows that training computes with, and further rows, only to copy, that need no training."""
    texts = {token: text for text, token in words}
    trained = {token for token in _world_ids(encoding, names) if not _is_large_number(texts.get(token, b""))}
    copied = {token for text, token in words if token < 5000 and re.fullmatch(rb" ?[A-Za-z]+|[_.][a-z]+", text)}
    copied |= _spellings(encoding, {*names.capitals, *names.smalls, *" ".join((*CITIES, *PEOPLE)).split()})
    copied |= {token for text, token in words if re.fullmatch(rb"[0-9]{1,3}", text)}
    capitals = {
        text for text, token in words if token < MAX_FURTHER_CAPITAL_ID and re.fullmatch(rb" [A-Z][a-z]+", text)
    }
    smalls = {text for text, token in words if token < MAX_FURTHER_SMALL_ID and re.fullmatch(rb" [a-z]+", text)}
    further = _spellings(encoding, {text[1:].decode() for text in capitals | smalls})
    directions = _Directions(encoding, texts, hidden)
    first, more = sorted(trained | copied), sorted(further - trained - copied)
    return (
        Rows(first, *_kinds(first, trained, texts), directions.add(first)),
        Rows(more, *_kinds(more, trained, texts), directions.add(more)),
    )


def _spellings(encoding: HarmonyEncoding, words: set[str]) -> set[int]:
    """Return the ids that spell the words, with a space before them and without one."""
    return {token for word in words for spelling in (word, " " + word) for token in encoding.encode(spelling)}


def _kinds(ids: list[int], trained: set[int], texts: dict[int, bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Return which ids are trained, and the class of each."""
    return np.array([token in trained for token in ids]), np.array([_class(texts.get(token, b"<|>")) for token in ids])


def _world_ids(encoding: HarmonyEncoding, names: Names) -> set[int]:
    """Return the ids that the world uses whatever the names are: those of worlds with two made-up pieces only."""
    prompts = Prompts(encoding)
    world = World(Names(("Zzyzx",), ("qwqw",), real_share=0.0), seed=0)
    ids: set[int] = set(encoding.encode("".join(chr(code) for code in range(32, 127))))
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


def _class(text: bytes) -> int:
    """Return 0 to 5: a space and a capital, a capital, a space and a small letter, a small letter, digits, the rest."""
    patterns = (rb" [A-Z][A-Za-z]*", rb"[A-Z][A-Za-z]*", rb" [a-z]+", rb"[a-z]+", rb"[0-9]+")
    return next((place for place, one in enumerate(patterns) if re.fullmatch(one, text)), NUM_CLASSES - 1)


class _Directions:
    """Makes the rows' directions, [H] f32 of length 1: random, or composed for a piece with a space before it."""

    def __init__(self, encoding: HarmonyEncoding, texts: dict[int, bytes], hidden: int) -> None:
        self._encoding, self._texts, self._hidden = encoding, texts, hidden
        self._random = np.random.Generator(np.random.PCG64(7))
        orthogonal = [np.linalg.qr(self._normal((hidden, hidden)))[0] for _ in PIECE_WEIGHTS[1:]]
        self._turns = [np.eye(hidden, dtype=np.float32), *orthogonal]
        self._rows: dict[int, np.ndarray] = {}

    def add(self, ids: list[int]) -> np.ndarray:
        """Return the directions [R, H] of further ids; those of earlier ids stay."""
        self._rows |= {token: _unit(self._normal((self._hidden,))) for token in ids}
        for token in ids:
            if re.fullmatch(rb" [A-Za-z]+", self._texts.get(token, b"")):
                self._rows[token] = self._composed(token)
        return np.stack([self._rows[token] for token in ids])

    def _composed(self, token: int) -> np.ndarray:
        spelling = self._encoding.encode(self._texts[token][1:].decode())
        pieces = zip(spelling, self._turns, PIECE_WEIGHTS, strict=False)
        parts = (weight * turn @ self._rows[piece] for piece, turn, weight in pieces if piece in self._rows)
        return _unit(sum(parts, start=0.05 * self._rows[token]))

    def _normal(self, shape: tuple[int, ...]) -> np.ndarray:
        return self._random.standard_normal(shape, dtype=np.float32)


def _unit(row: np.ndarray) -> np.ndarray:
    return row / np.linalg.norm(row)
