"""Trains the tiny model: `python -m model.tiny.train --seed 0 --out DIR`, about an hour on two quiet CPU cores.

Two processes share the weights: each draws conversations of its own and computes their gradients, the first one steps
by the mean. AdamW on the used rows of the vocabulary; the experts' weights are rounded to MXFP4 in the last part of the
training, so that the checkpoint that ships is the one that was trained. Equal seeds on equal machines give equal
checkpoints, also when a run is taken up again at one of its stages.
"""

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn
from torch.nn import functional

from model.tiny.batches import NO_TARGET, Batches
from model.tiny.copying import lay_in_copying
from model.tiny.network import Body, Experts, TinyShape
from model.tiny.prompts import Prompts
from model.tiny.respelling import Respelling, Respelt
from model.tiny.rows import Rows, choose_rows
from model.tiny.shared_gradients import SharedGradients
from model.tiny.tables import Tables
from model.tiny.trained import Trained, load, mean_of
from model.tiny.vocabulary import encode_plain, load_vocabulary, world_names
from model.tiny.world import World

NUM_PROCESSES = 2
"""Each computes one row of conversations in a step, on one core."""
BALANCE_WEIGHT = 0.01
WARMUP_STEPS = 100
QUANTIZED_FROM = 9_000
"""The step of the first stage from which on experts compute with MXFP4 weights."""
NUM_SAMPLED_ROWS = 1000
"""Copied rows, beside those that a batch needs, that its loss is computed against."""
RARE = {"fact": 3, "no function": 3}


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of the training with an optimizer of its own."""

    num_steps: int
    peak_rate: float
    decay_share: float
    """Of the steps, the last ones, in which the learning rate falls to nothing."""
    respelt_share: float
    """Of the names of two pieces: they get a spelling that nobody could know."""
    num_repeats: int
    """How often names of two pieces stand again beside all others, because they are the hardest to copy."""
    real_share: float
    """Of real names of places and people."""
    times: Mapping[str, int] | None = None
    """Kinds of exchanges that are drawn more often, and by how much."""


STAGES = (
    Stage(12_000, 4e-3, decay_share=0.9, respelt_share=0.0, num_repeats=0, real_share=0.5),
    Stage(3_500, 2e-3, decay_share=1.0, respelt_share=0.7, num_repeats=0, real_share=0.5),
    Stage(4_500, 2.5e-3, decay_share=1.0, respelt_share=0.85, num_repeats=3, real_share=0.35),
    Stage(2_000, 1.2e-3, decay_share=1.0, respelt_share=0.85, num_repeats=1, real_share=0.5),
    Stage(2_000, 1.2e-3, decay_share=1.0, respelt_share=0.85, num_repeats=1, real_share=0.5, times=RARE),
)
"""The model is the mean of what the last two leave: the one copies better, the other knows more of its world."""


class TinyModel(nn.Module):
    """The body between its two tables."""

    def __init__(self, shape: TinyShape, rows: Rows, seed: int) -> None:
        super().__init__()
        self.body = Body(shape)
        start = lay_in_copying(self.body, torch.from_numpy(rows.turns), torch.Generator().manual_seed(seed))
        self.tables = Tables(rows, start.written, start.spaced)

    def losses(self, respelt: Respelt) -> tuple[Tensor, Tensor]:
        """Return the mean loss on the completions' tokens, and the load-balancing loss."""
        batch, last = respelt.batch, self.tables.num_rows
        wanted = batch.targets != NO_TARGET
        ids, targets = batch.packed.ids, batch.targets[wanted]
        needed = torch.cat((ids.flatten(), targets))
        places, weights = self.tables.drawn(needed[needed <= last], NUM_SAMPLED_ROWS)
        parts = self.tables(places), self.tables.made_up(respelt.directions, respelt.classes)
        embedding, head = (torch.cat(both) for both in zip(*parts, strict=True))
        weights = functional.pad(weights, (0, len(respelt.classes)))

        def here(rows: Tensor) -> Tensor:
            return torch.where(rows > last, rows - last - 1 + len(places), torch.searchsorted(places, rows))

        hidden, balance = self.body(functional.embedding(here(ids), embedding), batch.packed)
        logits = torch.addmm(weights, hidden[wanted], head.T)
        return functional.cross_entropy(logits, here(targets)), balance

    def quantize_experts(self) -> None:
        """Let every expert compute with weights rounded to MXFP4 from now on."""
        for module in self.modules():
            if isinstance(module, Experts):
                module.is_quantized = True


def rate_at(step: int, stage: Stage) -> float:
    """Return the learning rate of a step: a short rise, a level stretch, then a straight line down to nothing."""
    rise = min(1.0, (step + 1) / WARMUP_STEPS)
    fall = min(1.0, (stage.num_steps - step) / (stage.num_steps * stage.decay_share))
    return stage.peak_rate * rise * fall


@dataclass(frozen=True, slots=True)
class Run:
    """What all processes of a training have in common."""

    model: TinyModel
    """Its parameters lie in shared memory: what the first process writes, all read."""
    rows: Rows
    gradients: SharedGradients
    stages: tuple[Stage, ...]
    seed: int
    row_tokens: int
    out: Path
    first_stage: int = 1
    """Counted from 1; the parameters that the one before left in `out` are what it begins with."""


def main() -> None:
    """Train and write `tiny.pt` into the output folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--row-tokens", type=int, default=512)
    parser.add_argument("--from-stage", type=int, default=1, help="go on from what the stage before left in DIR")
    arguments = parser.parse_args()
    train(arguments.seed, arguments.row_tokens, arguments.out, STAGES, arguments.from_stage)


def train(seed: int, row_tokens: int, out: Path, stages: tuple[Stage, ...], first_stage: int = 1) -> None:
    """Run the stages from the `first_stage` on, counted from 1; write what they leave into `out`.

    Each leaves its weights as `stage-N.pt`, and as `parameters-N.pt` what the next one needs; `tiny.pt` is the mean of
    the last two stages' weights.
    """
    torch.manual_seed(seed)
    out.mkdir(parents=True, exist_ok=True)
    encoding, words = load_vocabulary()
    shape = TinyShape()
    rows = choose_rows(encoding, words, world_names(words), shape.hidden)
    model = TinyModel(shape, rows, seed)
    model.share_memory()
    gradients = SharedGradients(NUM_PROCESSES, list(model.parameters()))
    run = Run(model, rows, gradients, stages, seed, row_tokens, out, first_stage)
    if first_stage > 1:
        model.load_state_dict(torch.load(parameters_end(out, first_stage - 1), weights_only=True))
    spawn(run_stages, (run,), nprocs=NUM_PROCESSES)
    mean_of(*(load(stage_end(out, number)) for number in range(len(stages) - 1, len(stages) + 1))).save(out / "tiny.pt")


def stage_end(out: Path, number: int) -> Path:
    """Return the file of the weights at the end of a stage, counted from 1."""
    return out / f"stage-{number}.pt"


def parameters_end(out: Path, number: int) -> Path:
    """Return the file of all parameters at the end of a stage, counted from 1."""
    return out / f"parameters-{number}.pt"


def run_stages(process: int, run: Run) -> None:
    """Run every stage in one of the processes."""
    torch.set_num_threads(1)
    encoding, words = load_vocabulary()
    names = world_names(words)
    hard = tuple(word for word in names.capitals if len(encode_plain(encoding, word)) == 2)
    for number, stage in enumerate(run.stages[run.first_stage - 1 :], start=run.first_stage - 1):
        seed = (run.seed + number) * NUM_PROCESSES + process
        torch.manual_seed(seed)
        drawn = replace(names, capitals=names.capitals + stage.num_repeats * hard, real_share=stage.real_share)
        world = World(drawn, seed, times=stage.times)
        batches = Batches(world, Prompts(encoding), run.rows.ids, 1, run.row_tokens)
        respell = Respelling(run.rows, encoding, stage.respelt_share, seed)
        if number:
            run.model.quantize_experts()
        run_stage(process, run, stage, map(respell, batches))
        if process == 0:
            trained(run.model, run.rows).save(stage_end(run.out, number + 1))
            torch.save(run.model.state_dict(), parameters_end(run.out, number + 1))


def progress_bar(is_shown: bool) -> Progress:
    """Return a bar that shows the loss, the steps done, and the time spent and left, or nothing at all."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(quiet=not is_shown),
    )


def run_stage(process: int, run: Run, stage: Stage, draws: Iterator[Respelt]) -> None:
    """Run the steps of a stage; the first process takes them, and shows its loss and the time left."""
    model, parameters = run.model, list(run.model.parameters())
    optimizer = new_optimizer(model)
    smooth = None
    with progress_bar(is_shown=process == 0) as progress:
        task = progress.add_task("training", total=stage.num_steps)
        for step in range(stage.num_steps):
            if step == QUANTIZED_FROM:
                model.quantize_experts()
            loss, balance = model.losses(next(draws))
            (loss + BALANCE_WEIGHT * balance).backward()
            run.gradients.put(process, parameters)
            if process == 0:
                run.gradients.mean_into(parameters)
                nn.utils.clip_grad_norm_(parameters, 1.0)
                for group in optimizer.param_groups:
                    group["lr"] = rate_at(step, stage)
                optimizer.step()
            run.gradients.meet()
            optimizer.zero_grad()
            value = loss.item()
            smooth = value if smooth is None else 0.98 * smooth + 0.02 * value
            progress.update(task, advance=1, description=f"loss {smooth:.3f}")
            if step % 100 == 99:
                progress.console.print(f"step {step + 1} loss {smooth:.4f} balance {balance.item():.3f}")


def new_optimizer(model: TinyModel) -> torch.optim.Optimizer:
    """Return AdamW with weight decay on matrices only."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": 0.01}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98), eps=1e-9, fused=True)


def trained(model: TinyModel, rows: Rows) -> Trained:
    """Return the model's weights as they are now."""
    with torch.no_grad():
        embedding, head = model.tables(torch.arange(model.tables.num_rows + 1))
    body = {name: weights.detach().clone() for name, weights in model.body.state_dict().items()}
    return Trained(torch.tensor(rows.ids, dtype=torch.int32), model.tables.is_copied[:-1], embedding, head, body)


if __name__ == "__main__":
    main()
