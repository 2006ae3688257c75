"""The rows of the vocabulary that the tiny model uses, and how those it only copies are made.

Of 201,088 rows a few hundred are words of the little world: they are trained. Some thousand are pieces of names that
the model only ever copies: their rows are frozen random directions, and one learnt linear map turns an input row into
its output row, so that copying works for every piece alike, also for one that training never showed. A piece with a
space before it is built from the pieces that spell it without the space. All other ids share one row.
"""

import re
from dataclasses import dataclass
from functools import partial

import numpy as np
from openai_harmony import HarmonyEncoding

from model.tiny.names import CITIES, PEOPLE, Names
from model.tiny.prompts import Prompts
from model.tiny.world import World

NUM_TRAINED_NUMBERS = 199
"""Numbers from 0 that the model calculates with: sums of two numbers below 100."""
NUM_CLASSES = 6
PIECE_WEIGHTS = (1.0, 0.8, 0.6, 0.5)


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


def choose_rows(encoding: HarmonyEncoding, words: list[tuple[bytes, int]], names: Names, hidden: int) -> Rows:
    """Return the rows for the world's words and for pieces to copy, drawn from the vocabulary `words`."""
    trained = _world_ids(encoding, names)
    copied = {token for text, token in words if token < 5000 and re.fullmatch(rb" ?[A-Za-z]+|[_.][a-z]+", text)}
    for word in {*names.capitals, *names.smalls, *" ".join((*CITIES, *PEOPLE)).split()}:
        copied |= {*encoding.encode(word), *encoding.encode(" " + word)}
    copied |= {token for text, token in words if re.fullmatch(rb"[0-9]{1,3}", text)}
    texts = {token: text for text, token in words}
    trained = {token for token in trained if not _is_large_number(texts.get(token, b""))}
    ids = sorted(trained | copied)
    classes = np.array([_class(texts.get(token, b"<|>")) for token in ids])
    is_trained = np.array([token in trained for token in ids])
    return Rows(ids, is_trained, classes, _directions(encoding, ids, texts, hidden))


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


def _directions(encoding: HarmonyEncoding, ids: list[int], texts: dict[int, bytes], hidden: int) -> np.ndarray:
    """Return [R, H] f32 rows of length 1: random for a piece without a space, composed for one with a space."""
    normal = partial(np.random.Generator(np.random.PCG64(7)).standard_normal, dtype=np.float32)
    turns = [np.eye(hidden, dtype=np.float32)] + [np.linalg.qr(normal((hidden, hidden)))[0] for _ in PIECE_WEIGHTS[1:]]
    rows = {token: _unit(normal(hidden)) for token in ids}
    for token in ids:
        text = texts.get(token, b"")
        if re.fullmatch(rb" [A-Za-z]+", text):
            spelling = encoding.encode(text[1:].decode())
            pieces = zip(spelling, turns, PIECE_WEIGHTS, strict=False)
            rows[token] = _unit(
                sum(
                    (weight * turn @ rows[piece] for piece, turn, weight in pieces if piece in rows),
                    start=0.05 * rows[token],
                )
            )
    return np.stack([rows[token] for token in ids])


def _unit(row: np.ndarray) -> np.ndarray:
    return row / np.linalg.norm(row)
