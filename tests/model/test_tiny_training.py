"""The tiny model's training program: every stage runs, names are respelt for real, and the ends are averaged."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from model.tiny import train
from model.tiny.asset import read_asset
from model.tiny.batches import NO_TARGET, Batches
from model.tiny.network import TinyShape
from model.tiny.pack import pack
from model.tiny.prompts import Prompts
from model.tiny.respelling import Respelling, Respelt
from model.tiny.rows import Rows, choose_rows
from model.tiny.trained import Trained, load, mean_of
from model.tiny.vocabulary import load_vocabulary, world_names
from model.tiny.world import World

NUM_BATCHES = 6


def draw(*shares: float) -> tuple[Rows, list[list[Respelt]]]:
    """Return the rows, and the same batches respelt by each of `shares`."""
    encoding, words = load_vocabulary()
    names = world_names(words)
    rows = choose_rows(encoding, words, names, TinyShape().hidden)

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


def test_every_stage_runs_and_leaves_what_can_be_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ends: list[Trained] = []

    def note(model: train.TinyModel, rows: Rows) -> Trained:
        ends.append(trained(model, rows))
        return ends[-1]

    trained = train.trained
    monkeypatch.setattr(train, "trained", note)
    monkeypatch.setattr(train, "STAGES", tuple(replace(stage, num_steps=2) for stage in train.STAGES))
    monkeypatch.setattr(sys, "argv", ["train", "--out", str(tmp_path), "--row-tokens", "256"])
    train.main()
    left = load(tmp_path / "tiny.pt")
    asset = read_asset(pack(left, TinyShape()).to_bytes())
    assert asset.ids.tolist() == left.ids.tolist()
    before, last = ends[-3], ends[-1]
    assert not torch.equal(before.head, last.head)
    assert torch.equal(left.head, mean_of(before, last).head)
