"""Trains the tiny model: `python -m model.tiny.train --seed 0 --out DIR`, about an hour on one CPU core.

AdamW on the used rows of the vocabulary; the experts' weights are rounded to MXFP4 in the last part of the training,
so that the checkpoint that ships is the one that was trained. Equal seeds on equal machines give equal checkpoints.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.nn import functional

from model.tiny.batches import NO_TARGET, Batch, Batches
from model.tiny.copying import lay_in_copying
from model.tiny.network import Body, Experts, TinyShape
from model.tiny.prompts import Prompts
from model.tiny.rows import Rows, choose_rows
from model.tiny.tables import Tables
from model.tiny.vocabulary import load_vocabulary, world_names
from model.tiny.world import World

BALANCE_WEIGHT = 0.01
PEAK_RATE = 4e-3
DECAY_SHARE = 0.9
QUANTIZED_SHARE = 0.25
WARMUP_STEPS = 100
NUM_SAMPLED_ROWS = 1000
"""Copied rows, beside those that a batch needs, that its loss is computed against."""


class TinyModel(nn.Module):
    """The body between its two tables."""

    def __init__(self, shape: TinyShape, rows: Rows, seed: int) -> None:
        super().__init__()
        self.body = Body(shape)
        start = lay_in_copying(self.body, torch.from_numpy(rows.turns), torch.Generator().manual_seed(seed))
        self.tables = Tables(rows, start.written, start.spaced)

    def losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the mean loss on the completions' tokens, and the load-balancing loss."""
        wanted = batch.targets != NO_TARGET
        targets = batch.targets[wanted]
        places, weights = self.tables.drawn(torch.cat((batch.packed.ids.flatten(), targets)), NUM_SAMPLED_ROWS)
        embedding, head = self.tables(places)
        ids = torch.searchsorted(places, batch.packed.ids)
        hidden, balance = self.body(functional.embedding(ids, embedding), batch.packed)
        logits = torch.addmm(weights, hidden[wanted], head.T)
        return functional.cross_entropy(logits, torch.searchsorted(places, targets)), balance

    def quantize_experts(self) -> None:
        """Let every expert compute with weights rounded to MXFP4 from now on."""
        for module in self.modules():
            if isinstance(module, Experts):
                module.is_quantized = True


def rate_at(step: int, num_steps: int) -> float:
    """Return the learning rate of a step: a short rise, a level stretch, then a straight line down to nothing."""
    rise = min(1.0, (step + 1) / WARMUP_STEPS)
    fall = min(1.0, (num_steps - step) / (num_steps * DECAY_SHARE))
    return PEAK_RATE * rise * fall


def main() -> None:
    """Train and write `tiny.pt` into the output folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=12000)
    parser.add_argument("--rows", type=int, default=2, help="rows of conversations in a step")
    parser.add_argument("--row-tokens", type=int, default=512)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    arguments.out.mkdir(parents=True, exist_ok=True)
    encoding, words = load_vocabulary()
    shape, names = TinyShape(), world_names(words)
    rows = choose_rows(encoding, words, names, shape.hidden)
    batches = Batches(World(names, arguments.seed), Prompts(encoding), rows.ids, arguments.rows, arguments.row_tokens)
    model = TinyModel(shape, rows, arguments.seed)
    train(model, batches, arguments.steps, lambda: save(model, rows, arguments.out / "tiny.pt"))


def progress_bar() -> Progress:
    """Return a bar that shows the loss, the steps done, and the time spent and left."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )


def train(model: TinyModel, batches: Batches, num_steps: int, save_now: Callable[[], None]) -> None:
    """Run `num_steps` steps with a progress bar that shows loss and time left."""
    optimizer = new_optimizer(model)
    smooth = None
    with progress_bar() as progress:
        task = progress.add_task("training", total=num_steps)
        for step in range(num_steps):
            if step == int(num_steps * (1 - QUANTIZED_SHARE)):
                model.quantize_experts()
            for group in optimizer.param_groups:
                group["lr"] = rate_at(step, num_steps)
            loss, balance = model.losses(batches.draw())
            (loss + BALANCE_WEIGHT * balance).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            value = loss.item()
            smooth = value if smooth is None else 0.98 * smooth + 0.02 * value
            progress.update(task, advance=1, description=f"loss {smooth:.3f}")
            if step % 100 == 99:
                progress.console.print(f"step {step + 1} loss {smooth:.4f} balance {balance.item():.3f}")
            if step % 500 == 499:
                save_now()
    save_now()


def new_optimizer(model: TinyModel) -> torch.optim.Optimizer:
    """Return AdamW with weight decay on matrices only."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": 0.01}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98), eps=1e-9, fused=True)


def save(model: TinyModel, rows: Rows, path: Path) -> None:
    """Write the ids of the rows, which of them are only copied, both tables (last the shared row), and the body."""
    with torch.no_grad():
        embedding, head = model.tables(torch.arange(model.tables.num_rows + 1))
    ids, is_copied = torch.tensor(rows.ids, dtype=torch.int32), model.tables.is_copied[:-1]
    content = {
        "ids": ids,
        "is_copied": is_copied,
        "embedding": embedding,
        "head": head,
        "body": model.body.state_dict(),
    }
    torch.save(content, path)


if __name__ == "__main__":
    main()
