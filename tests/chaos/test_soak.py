"""The soak as it is run, for seconds; and what its judges see, by hand."""

import json
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.chaos.census import Census, role_of
from tests.chaos.growth import BLOCKS, trends
from tests.chaos.soak import next_role
from tests.chaos.soak_picture import picture

HOLDS_A_PORT = """
import socket, sys, time
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
sys.stdin.read()
"""


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_short_soak_loses_and_changes_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    command = [sys.executable, "-m", "tests.chaos.soak", "--minutes", "0.02", "--round-s", "3", "--kill-every-s", "1.5"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    ended = subprocess.run(
        [*command, "--out", str(out)], capture_output=True, text=True, env=environment, timeout=280, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    (row,) = map(json.loads, out.read_text(encoding="utf-8").splitlines())
    assert (row["processes, worker"], row["processes, attention"], row[BLOCKS]) == (4, 2, 0)
    assert row["ports"] > 0
    assert " 0 changed, 0 failed" in ended.stdout
    assert " 0 kills" not in ended.stdout
    assert out.with_suffix(".svg").read_text(encoding="utf-8").endswith("</svg>")


def grows(name: str, *series: float) -> bool:
    (trend,) = trends([{name: number} for number in series])
    return trend.is_growing


def test_memory_that_goes_on_growing_is_seen_and_memory_that_warms_up_is_not() -> None:
    """The middle third against the last: 112 to 148 grows by more than 8 and 5 %; 160 to 160 does not."""
    assert grows("memory, edge", 76, 88, 100, 112, 124, 136, 148, 160, 172)
    assert not grows("memory, edge", 80, 120, 150, 160, 160, 160, 160, 160, 160)


def test_a_file_left_open_at_every_rest_is_seen_and_a_count_that_swings_is_not() -> None:
    assert grows("files, worker", *range(100, 200, 5))
    assert not grows("files, worker", *([200, 206] * 6))


def test_a_port_a_process_and_an_ended_child_may_not_gather() -> None:
    for name in ("ports", "processes, worker", "ended children"):
        assert grows(name, 4, 4, 5, 6, 7, 8, 9, 10, 11)
        assert not grows(name, 4, 4, 4, 4, 4, 4, 5, 4, 4)


def test_a_block_in_use_at_a_single_rest_is_a_leak() -> None:
    assert grows(BLOCKS, 0, 1, 0)
    assert not grows(BLOCKS, 0, 0, 0)


def test_a_census_counts_a_process_and_knows_when_it_was_left_behind() -> None:
    census = Census()
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS_A_PORT], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        port = int(program.stdout.readline())
        figures = census.take([program.pid])
        assert (figures["ports"], figures["processes, other"], figures["processes, worker"]) == (1, 1, 0)
        assert figures["files, other"] >= 4
        assert figures["memory, other"] > 1
        assert census.leftovers() == [f"process {program.pid}", f"port {port}"]
        program.stdin.close()
        program.wait(20)
    assert census.leftovers() == []


def test_an_ended_child_that_nobody_asks_about_is_counted() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert Census().take([os.getpid()])["ended children"] == 1
    child.wait()


def test_roles_are_told_by_their_command_lines() -> None:
    assert role_of(["ray::ExpertWorker"]) == "worker"
    assert role_of(["/x/ray/core/src/ray/raylet/raylet", "--a=/gcs"]) == "raylet"
    assert role_of(["python", "-m", "router.cli", "serve"]) == "launcher"
    assert role_of(["ray::IDLE"]) == "other"


def test_attention_is_struck_once_a_round_and_never_when_it_is_alone() -> None:
    chance, living = random.Random(0), {"worker": 4, "attention": 2, "supervisor": 1}
    drawn = Counter(next_role(chance, living, {}) for _ in range(600))
    assert set(drawn) == {"worker", "attention", "supervisor"}
    for living_attention, struck in ((1, {"supervisor": 1}), (2, {"attention": 1, "supervisor": 1})):
        alone = living | {"attention": living_attention}
        assert {next_role(chance, alone, struck) for _ in range(200)} == {"worker"}


def test_nobody_is_struck_while_most_workers_are_still_being_made_anew() -> None:
    living = {"worker": 1, "attention": 1, "supervisor": 1}
    assert next_role(random.Random(0), living, {}) == "supervisor"
    assert next_role(random.Random(0), living, {"supervisor": 1}) is None


def test_the_picture_has_a_line_for_each_figure_and_a_stroke_for_each_kill() -> None:
    drawn = picture([10.0, 20.0], [{"ports": 3.0}, {"ports": 3.0, "x < y": 1.0}], [5.0, 15.0])
    assert drawn.count("<polyline") == 2
    assert drawn.count("v6") == 2
    assert "x &lt; y" in drawn
