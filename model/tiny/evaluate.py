"""Scores the shipped model on the held-out part of its world: `python -m model.tiny.evaluate`.

An exchange counts as right when the model, greedily, writes every token of the expected completion: its reasoning, its
answer, the function's name and arguments, the stop. The expected tokens are fed in, so one forward pass per row of
conversations decides it exactly.
"""

import argparse
from collections import Counter

import torch
from rich.console import Console
from rich.table import Table

from model.tiny.asset import read_asset, shipped_bytes
from model.tiny.batches import NO_TARGET, Batch, Batches
from model.tiny.compact import CompactModel
from model.tiny.prompts import Prompts
from model.tiny.vocabulary import load_vocabulary, world_names
from model.tiny.world import World

HELD_OUT_SEED = 1_000_003


class Scores:
    """Counts of right and of all exchanges, by kind and by effort."""

    def __init__(self) -> None:
        self.right: Counter[tuple[str, str]] = Counter()
        self.all: Counter[tuple[str, str]] = Counter()

    def add(self, kind: str, effort: str, is_right: bool) -> None:
        """Count one exchange."""
        self.all[kind, effort] += 1
        self.right[kind, effort] += is_right

    def share(self, kind: str, effort: str | None = None) -> float:
        """Return the share of right exchanges of a kind, at one effort or at all."""
        keys = [key for key in self.all if key[0] == kind and effort in {None, key[1]}]
        total = sum(self.all[key] for key in keys)
        return sum(self.right[key] for key in keys) / total if total else float("nan")


def held_out_batches(model: CompactModel, num_rows: int = 4, row_tokens: int = 640) -> Batches:
    """Return batches of conversations that training never showed."""
    encoding, words = load_vocabulary()
    world = World(world_names(words), HELD_OUT_SEED, wants_held_out=True)
    return Batches(world, Prompts(encoding), model.ids, num_rows, row_tokens)


def score(model: CompactModel, batch: Batch, scores: Scores) -> None:
    """Add the exchanges of a batch to the scores."""
    wanted = batch.targets != NO_TARGET
    best = torch.full_like(batch.targets, NO_TARGET)
    best[wanted] = model.best_rows(model.hidden(batch.packed)[wanted])
    is_wrong = best != batch.targets
    for row, exchanges in enumerate(batch.exchanges):
        for place, exchange in enumerate(exchanges):
            failed = bool(is_wrong[row][batch.packed.branches[row] == place + 1].any())
            scores.add(exchange.kind, batch.settings[row].effort, not failed)


def main() -> None:
    """Print the held-out scores by kind of task."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, default=60)
    arguments = parser.parse_args()
    model = CompactModel.of(read_asset(shipped_bytes()))
    batches, scores = held_out_batches(model), Scores()
    for _ in range(arguments.batches):
        score(model, batches.draw(), scores)
    table = Table("kind", "low", "medium", "high", "all", "exchanges")
    for kind in sorted({kind for kind, _ in scores.all}):
        shares = [scores.share(kind, effort) for effort in ("low", "medium", "high", None)]
        total = sum(count for key, count in scores.all.items() if key[0] == kind)
        table.add_row(kind, *(f"{100 * share:.1f}" for share in shares), str(total))
    Console().print(table)


if __name__ == "__main__":
    main()
