"""Names that nobody could learn by heart: words of a batch get a new spelling of random pieces, for this batch only.

A name that JSON spells in two pieces has to be spelt from its own row. Training shows some thousand such names, few
enough for a network to remember which second piece follows which first one; and then it spells what it remembers. So a
share of them is replaced by rows of no token at all, made of two random pieces as the rows of real names are, and what
spells them by these pieces.
"""

from collections import Counter
from dataclasses import dataclass, replace
from random import Random

import numpy as np
import torch
from openai_harmony import HarmonyEncoding
from torch import Tensor

from model.tiny.batches import Batch
from model.tiny.rows import SPACED_CLASSES, Rows, direction_of
from model.tiny.vocabulary import encode_plain


@dataclass(frozen=True, slots=True)
class Respelt:
    """A batch whose row numbers past the shared row's are made-up rows."""

    batch: Batch
    directions: Tensor
    """[M, H] f32 of length 1."""
    classes: Tensor
    """[M] i64."""


class Respelling:
    """Respells a share of the names of two pieces in batches; equal seeds respell equally."""

    def __init__(self, rows: Rows, encoding: HarmonyEncoding, share: float, seed: int) -> None:
        self._rows = rows
        self._share = share
        self._random = Random(f"respelling {seed}")
        self._noise = np.random.Generator(np.random.PCG64(seed))
        places = {token: place for place, token in enumerate(rows.ids)}
        self._spellings: dict[int, tuple[int, ...]] = {}
        for place in np.flatnonzero(np.isin(rows.classes, SPACED_CLASSES)).tolist():
            pieces = encode_plain(encoding, encoding.decode([rows.ids[place]])[1:])
            self._spellings[place] = tuple(places.get(piece, -1) for piece in pieces)
        self._alike = {
            kind: np.flatnonzero((rows.classes == kind) & ~rows.is_trained).tolist()
            for kind in np.unique(rows.classes).tolist()
        }

    def __call__(self, batch: Batch) -> Respelt:
        """Return `batch` with a share of its names respelt, each row of conversations on its own."""
        ids, targets = batch.packed.ids.numpy().copy(), batch.targets.numpy().copy()
        directions: list[np.ndarray] = []
        classes: list[int] = []
        for row in range(len(ids)):
            renamed: dict[int, int] = {}
            for name, pieces in self._chosen({*ids[row].tolist(), *targets[row].tolist()}):
                others = [self._random.choice(self._alike[int(self._rows.classes[piece])]) for piece in pieces]
                renamed |= dict(zip(pieces, others, strict=True)) | {name: len(self._rows.ids) + 1 + len(classes)}
                noise = self._noise.standard_normal(self._rows.directions.shape[1], dtype=np.float32)
                parts = [self._rows.directions[other] for other in others]
                directions.append(direction_of(parts, self._rows.turns, noise / np.linalg.norm(noise)))
                classes.append(int(self._rows.classes[name]))
            for numbers in (ids[row], targets[row]):
                numbers[:] = [renamed.get(number, number) for number in numbers.tolist()]
        made_up = np.stack(directions) if directions else np.zeros((0, self._rows.directions.shape[1]), np.float32)
        changed = replace(
            batch, packed=replace(batch.packed, ids=torch.from_numpy(ids)), targets=torch.from_numpy(targets)
        )
        return Respelt(changed, torch.from_numpy(made_up), torch.tensor(classes, dtype=torch.int64))

    def _chosen(self, present: set[int]) -> list[tuple[int, tuple[int, ...]]]:
        """Return names among the `present` rows, with their two pieces, that can be respelt beside all others."""
        spelt = {name: self._spellings[name] for name in sorted(present) if name in self._spellings}
        uses = Counter(piece for pieces in spelt.values() for piece in set(pieces))
        return [
            (name, pieces)
            for name, pieces in spelt.items()
            if len(set(pieces)) == 2
            and self._is_only_copied(name, pieces)
            and all(uses[piece] == 1 for piece in pieces)
            and self._random.random() < self._share
        ]

    def _is_only_copied(self, name: int, pieces: tuple[int, ...]) -> bool:
        return min(pieces) >= 0 and not self._rows.is_trained[[name, *pieces]].any()
