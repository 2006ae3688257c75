"""Packs conversations: one setting as a prefix, several exchanges branching from it in one row of tokens.

Every branch sees the prefix and itself, and its positions go on where the prefix ends, so each is the conversation that
a server would see; the prefix is computed once for all of them.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from model.tiny.network import Packed
from model.tiny.prompts import Prompts
from model.tiny.setting import Exchange, Setting
from model.tiny.world import World

NO_TARGET = -100
KINDS_WITH_UNKNOWN_WORDS = {"unknown", "format unknown", "no function"}
MIN_BRANCH_TOKENS = 120
"""Tokens that a prefix leaves free at least."""
MAX_MISSES = 6
"""Exchanges that did not fit in a row after which it is full."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Packed conversations with the rows to predict."""

    packed: Packed
    targets: Tensor
    """[N, T] i64: row numbers, `NO_TARGET` outside completions."""
    settings: list[Setting]
    exchanges: list[list[Exchange]]
    """The exchange of each branch; branch 1 comes first."""


@dataclass(slots=True)
class _Row:
    """One row of a batch while it fills."""

    setting: Setting
    ids: list[int]
    positions: list[int]
    branches: list[int]
    targets: list[int]
    exchanges: list[Exchange] = field(default_factory=list[Exchange])

    def add(self, exchange: Exchange, prompt: list[int], completion: list[int]) -> None:
        """Append a branch; the last token of its completion is only a target."""
        start = self.branches.count(0)
        num_new = len(prompt) + len(completion) - 1
        self.exchanges.append(exchange)
        self.ids += (prompt + completion)[:-1]
        self.positions += range(start, start + num_new)
        self.branches += [len(self.exchanges)] * num_new
        self.targets += [NO_TARGET] * (len(prompt) - 1) + completion

    def pad(self, length: int) -> None:
        """Fill up to `length` tokens with any token: no branch sees it."""
        padding = length - len(self.ids)
        self.ids += [0] * padding
        self.positions += [0] * padding
        self.branches += [-1] * padding
        self.targets += [NO_TARGET] * padding


class Batches:
    """Draws batches of `num_rows` rows of `row_tokens` tokens from a world."""

    def __init__(self, world: World, prompts: Prompts, ids: list[int], num_rows: int, row_tokens: int) -> None:
        self._world, self._prompts = world, prompts
        self._places = {token: place for place, token in enumerate(ids)}
        self._other = len(ids)
        self._num_rows, self._row_tokens = num_rows, row_tokens

    def __iter__(self) -> Iterator[Batch]:
        """Draw batches without end."""
        while True:
            yield self.draw()

    def draw(self) -> Batch:
        """Return the next batch."""
        rows = [self._row() for _ in range(self._num_rows)]
        packed = Packed(
            torch.tensor([self.row_numbers(row.ids) for row in rows]),
            torch.tensor([row.positions for row in rows]),
            torch.tensor([row.branches for row in rows]),
        )
        targets = torch.tensor([self.row_numbers(row.targets) for row in rows])
        return Batch(packed, targets, [row.setting for row in rows], [row.exchanges for row in rows])

    def row_numbers(self, ids: list[int]) -> list[int]:
        """Return the row number of each token id; `NO_TARGET` stays."""
        return [NO_TARGET if token == NO_TARGET else self._places.get(token, self._other) for token in ids]

    def _row(self) -> _Row:
        while True:
            scene = self._world.scene()
            prefix = self._prompts.setting_ids(scene.setting)
            if len(prefix) <= self._row_tokens - MIN_BRANCH_TOKENS:
                break
        size = len(prefix)
        row = _Row(scene.setting, list(prefix), list(range(size)), [0] * size, [NO_TARGET] * size)
        misses = 0
        for exchange in self._world.exchanges(scene):
            prompt, completion = self._prompts.prompt_ids(exchange), self._prompts.completion_ids(exchange.completion)
            if (
                self._is_fit(exchange, prompt, completion)
                and len(row.ids) + len(prompt + completion) <= self._row_tokens
            ):
                row.add(exchange, prompt, completion)
                continue
            misses += 1
            if misses > MAX_MISSES and row.exchanges:
                break
        row.pad(self._row_tokens)
        return row

    def _is_fit(self, exchange: Exchange, prompt: list[int], completion: list[int]) -> bool:
        """Return whether every token has a row, as it must where the answer copies."""
        if exchange.kind in KINDS_WITH_UNKNOWN_WORDS:
            return True
        return all(token in self._places for token in prompt + completion)
