"""The tiny model's training program: every stage runs, names are respelt for real, and the ends are averaged."""

import itertools
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
from openai_harmony import HarmonyEncoding
from torch import nn

from model.tiny import train
from model.tiny.asset import read_asset
from model.tiny.batches import NO_TARGET, Batches
from model.tiny.names import Names
from model.tiny.network import TinyShape
from model.tiny.pack import pack
from model.tiny.prompts import Prompts
from model.tiny.respelling import Respelling, Respelt
from model.tiny.rows import Rows, choose_rows
from model.tiny.shared_gradients import SharedGradients
from model.tiny.trained import load, mean_of
from model.tiny.vocabulary import load_vocabulary, world_names
from model.tiny.world import World

NUM_BATCHES = 6


@cache
def parts() -> tuple[HarmonyEncoding, Names, Rows]:
    """Return what every training starts from; it takes seconds to make."""
    encoding, words = load_vocabulary()
    names = world_names(words)
    return encoding, names, choose_rows(encoding, words, names, TinyShape().hidden)


def draw(*shares: float) -> tuple[Rows, list[list[Respelt]]]:
    """Return the rows, and the same batches respelt by each of `shares`."""
    encoding, names, rows = parts()

    def batches(share: float) -> list[Respelt]:
        drawn = Batches(World(names, 5), Prompts(encoding), rows.ids, 2, 512)
        respell = Respelling(rows, encoding, share, seed=7)
        return [respell(drawn.draw()) for _ in range(NUM_BATCHES)]

    return rows, [batches(share) for share in shares]


def test_names_are_respelt_wherever_they_stand_and_nothing_else_changes() -> None:
    rows, (plain, respelt) = draw(0.0, 1.0)
    assert not any(len(one.classes) for one in plain)
    assert sum(len(one.classes) for one in respelt) > NUM_BATCHES
    for before, after in zip(plain, respelt, strict=True):
        for old, new in (
            (before.batch.packed.ids, after.batch.packed.ids),
            (before.batch.targets, after.batch.targets),
        ):
            is_changed = old != new
            assert bool((old[is_changed] != NO_TARGET).all())
            for row in range(len(old)):
                pairs = set(zip(old[row].tolist(), new[row].tolist(), strict=True))
                assert len({first for first, _ in pairs}) == len(pairs), "a piece got two replacements"
                made_up = [second - len(rows.ids) - 1 for _, second in pairs if second > len(rows.ids)]
                assert all(0 <= place < len(after.classes) for place in made_up)
        lengths = after.directions.norm(dim=1)
        assert torch.allclose(lengths, torch.ones_like(lengths), atol=1e-5)


def test_equal_seeds_respell_equally() -> None:
    _, (one, other) = draw(0.7, 0.7)
    for first, second in zip(one, other, strict=True):
        assert torch.equal(first.batch.packed.ids, second.batch.packed.ids)
        assert torch.equal(first.directions, second.directions)


def test_every_stage_runs_and_equal_seeds_train_equally(tmp_path: Path) -> None:
    stages = tuple(replace(stage, num_steps=2) for stage in train.STAGES)
    one, other = (tmp_path / name for name in ("one", "other"))
    for out in (one, other):
        train.train(seed=0, row_tokens=256, out=out, stages=stages)
    ends = [load(train.stage_end(one, number + 1)) for number in range(len(stages))]
    for before, after in itertools.pairwise(ends):
        assert not torch.equal(before.head, after.head)
    left, again = (load(out / "tiny.pt") for out in (one, other))
    assert torch.equal(left.head, mean_of(*ends[-2:]).head)
    assert torch.equal(left.head, again.head)
    for name, weights in left.body.items():
        assert torch.equal(weights, again.body[name]), name
    (other / "tiny.pt").unlink()
    train.train(seed=0, row_tokens=256, out=other, stages=stages, first_stage=len(stages))
    assert torch.equal(left.head, load(other / "tiny.pt").head), "taken up again at its last stage, it ends alike"
    asset = read_asset(pack(left, TinyShape()).to_bytes())
    assert asset.ids.tolist() == left.ids.tolist()


def test_a_step_takes_the_mean_of_all_processes_gradients() -> None:
    parameters = [nn.Parameter(torch.zeros(2, 3)), nn.Parameter(torch.zeros(4))]
    gradients = SharedGradients(1, parameters)
    parameters[1].grad = torch.arange(4.0)
    gradients.put(0, parameters)
    parameters[1].grad = None
    gradients.mean_into(parameters)
    means = [one.grad.tolist() for one in parameters if one.grad is not None]
    assert means == [[[0.0] * 3] * 2, [0.0, 1.0, 2.0, 3.0]]
