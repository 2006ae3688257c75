"""`expertmesh bench failover` as users run it: it starts a cluster, strikes it, tells what clients saw, and ends it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]


def test_two_workers_killed_at_once_change_no_answer_and_nothing_is_left(tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    command = [sys.executable, "-m", "router.cli", "bench", "failover", "--rounds", "1", "--fault", "two workers"]
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    process = subprocess.Popen(
        [*command, "--out", str(out)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    _, told = process.communicate(timeout=500)
    assert process.returncode == 0, told
    (row,) = map(json.loads, out.read_text(encoding="utf-8").splitlines())
    assert (row["num_strikes"], row["same"], row["changed"], row["failed"]) == (2, row["num_requests"], 0, 0)
    assert row["num_requests"] >= 16
    assert not Path(f"/tmp/f{process.pid}").exists()
