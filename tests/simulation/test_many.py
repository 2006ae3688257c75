"""Many seeds at once: the same ends as one by one, and a violation is told with its seed and makes the status 1."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation import many
from tests.simulation.cluster import SimulatedCluster
from tests.simulation.many import play, play_all

ROOT = Path(__file__).resolve().parents[2]


def test_several_processes_play_each_seed_once_and_as_one_process_does() -> None:
    together = sorted(play_all(range(7, 11), 2), key=lambda played: played.seed)
    assert together == [play(seed) for seed in range(7, 11)]
    assert all(played.violation is None and played.num_events > 0 for played in together)


def test_whatever_goes_wrong_in_a_seed_is_its_violation(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(SimulatedCluster):
        def run(self) -> None:
            super().run()
            raise KeyError("a book that was closed")

    monkeypatch.setattr(many, "SimulatedCluster", Broken)
    assert play(3).violation == "KeyError: 'a book that was closed'"


def test_the_command_tells_how_many_it_played() -> None:
    command = [sys.executable, "-m", "tests.simulation", "--seeds", "3", "--first", "5", "--processes", "1"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "3 seeds from 5 on" in ended.stdout
    assert "0 violations" in ended.stdout
