"""What a start-up shows: a row a role with what is loaded and how long is left; bars in a terminal, lines elsewhere."""

import io

import pytest
from rich.console import Console

from router.backend import ComponentProgress, Readiness
from router.config import load_config
from router.startup_progress import RoleProgress, TimeLeft, parts_by_role, role_rows, seconds_left, time_left_text
from router.startup_view import StartupView, print_summary

EXPECTED = {"worker": 4, "attention": 1}
LOADED = ComponentProgress("worker-0", "ready", 1.0, is_ready=True, role="worker")
LOADING = ComponentProgress("worker-1", "loading experts", 0.5, role="worker", done=8, total=16)
OPENING = ComponentProgress("attention-a", "opening the checkpoint", 0.0, role="attention")


def test_parts_of_a_role_share_a_row_and_those_to_come_have_one_too():
    """One worker loaded, one half way, two not there: 1.5 of 4. Attention counts nothing yet."""
    assert role_rows(parts_by_role([LOADED, LOADING]), EXPECTED) == [
        RoleProgress("experts", "loading experts", 0.375, "8 of 16; 1 of 4 workers ready"),
        RoleProgress("attention", "starting", None),
    ]
    (_, attention) = role_rows(parts_by_role([LOADED, OPENING]), EXPECTED)
    assert (attention.text, attention.fraction) == ("opening the checkpoint", None)


def test_a_role_is_done_when_all_its_parts_are():
    workers = [ComponentProgress(f"worker-{place}", "ready", 1.0, is_ready=True, role="worker") for place in range(4)]
    (three, *_), (four, *_) = (role_rows({"worker": workers[:end]}, EXPECTED) for end in (3, 4))
    assert not three.is_done
    assert (four.is_done, four.fraction, four.text) == (True, 1.0, "ready, all 4 workers")


def test_a_role_without_parts_is_not_shown():
    assert [row.label for row in role_rows(parts_by_role([OPENING]), {"worker": 0, "attention": 1})] == ["attention"]


def test_the_time_left_follows_the_pace_of_the_stage():
    """From 20 % to 60 % in 10 s: 40 % to go at 4 % a second."""
    assert seconds_left(0.6, 0.2, 10.0) == pytest.approx(10.0)
    assert seconds_left(0.2, 0.2, 10.0) is None
    left = TimeLeft()
    row = RoleProgress("model", "loading experts", 0.2)
    assert left.estimate_s(row, 0.0) is None
    assert left.estimate_s(RoleProgress("model", "loading experts", 0.6), 10.0) == pytest.approx(10.0)
    assert left.estimate_s(RoleProgress("model", "another stage", 0.1), 11.0) is None
    assert (time_left_text(8.4), time_left_text(200.0), time_left_text(None)) == ("8 s left", "3 min left", "")


def test_without_a_terminal_each_change_of_a_stage_is_one_plain_line():
    out = io.StringIO()
    with StartupView(Console(file=out, width=40), EXPECTED) as view:
        for progress in (0.25, 0.5, 0.75):
            view.show([LOADED, ComponentProgress("worker-1", "loading experts", progress, role="worker"), OPENING])
        view.show([LOADED, OPENING])
    lines = out.getvalue().splitlines()
    assert lines[:2] == ["experts: loading experts, 1 of 4 workers ready", "attention: opening the checkpoint"]
    assert len(lines) == 3
    assert "\x1b" not in out.getvalue()


def test_a_role_that_nobody_speaks_of_stays_as_it_was():
    """Ray Serve and HTTP are told of alone, and a part that is busy misses a report."""
    out = io.StringIO()
    with StartupView(Console(file=out), EXPECTED) as view:
        view.show([LOADED, OPENING])
        view.show([ComponentProgress("HTTP", "waiting for its first answer", 0.0)])
        view.show([LOADED])
    lines = out.getvalue().splitlines()
    assert lines == [
        "experts: starting, 1 of 4 workers ready",
        "attention: opening the checkpoint",
        "HTTP: waiting for its first answer",
    ]


def test_in_a_terminal_bars_are_coloured_from_the_start():
    """What cannot be counted yet moves in colour; what is done is green. A bar that waits is never grey alone."""
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, color_system="truecolor", width=100)
    with StartupView(console, EXPECTED) as view:
        view.show([OPENING])
        view._progress.refresh()
        begun = out.getvalue()
        view.show([LOADED, LOADING, OPENING])
        view._progress.refresh()
    assert "\x1b[36m━" in begun or "\x1b[38" in begun.replace("\x1b[38;5;237m", "").replace("\x1b[38;2;58;58;58m", "")
    assert "loading experts, 8 of 16; 1 of 4 workers ready" in out.getvalue()


def test_the_summary_begins_with_ready_and_knows_no_none():
    out = io.StringIO()
    print_summary(Console(file=out, width=200), load_config("tiny"), Readiness(True, "ready"), 2.84)
    assert out.getvalue().startswith("Ready after 2.8 s. Ctrl-C ends it.\nHTTP ")
    assert "None" not in out.getvalue()
