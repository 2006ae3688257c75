"""A served application on Ray whose attention replicas are killed under load: another one, or the next, goes on.

Two replicas and two workers. One replica is killed while sixteen clients wait: what it ran is resumed on the other.
Then both are killed at once: everything waits for Serve to start new ones. No client sees more than a pause, and no
token, logprob, finish reason or count of tokens differs.
"""

import os
import signal
import threading
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.chaos.served_load import ask_all
from tests.e2e.served import Served, is_port_free, served
from tests.e2e.test_cluster_life import empty_root, eventually, pids_titled, run_of

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

TITLE = "ray::ServeReplica:expertmesh:Attention"
REPLICAS = ("--set", "attention.min_replicas=2", "--set", "attention.max_replicas=2")
WORKERS = ("--set", "experts.num_workers=2", "--set", "experts.copies=2")
DELAYS_S = (0.2, 0.6, 1.2)
"""After the load began; the first catches prompts, the last the middle of the answers."""


@pytest.fixture(scope="module")
def root() -> Generator[Path]:
    with empty_root("ca") as path:
        yield path


@pytest.fixture(scope="module")
def server(root: Path) -> Generator[Served]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(root))
        with served("tiny", *REPLICAS, *WORKERS) as running:
            patch.undo()
            eventually(lambda: len(pids_titled(run_of(root), TITLE)) == 2)
            yield running
    assert is_port_free([running.http_port, running.grpc_port])


def killed_under_load(server: Served, root: Path, delay_s: float, most: int) -> tuple[object, list[int]]:
    """Ask everything, kill `most` replicas after a while, and return the answers and who was killed."""
    killed: list[int] = []

    def kill() -> None:
        time.sleep(delay_s)
        for pid in pids_titled(run_of(root), TITLE)[:most]:
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)

    killer = threading.Thread(target=kill)
    killer.start()
    answers = ask_all(server)
    assert len(killed) == most, "the requests were over too soon"
    killer.join()
    return answers, killed


def test_replicas_die_one_alone_and_both_at_once_and_no_client_sees_more_than_a_pause(
    server: Served, root: Path
) -> None:
    expected = ask_all(server)
    assert len(expected) >= 16
    for most, delays_s in ((1, DELAYS_S), (2, DELAYS_S[1:2])):
        for delay_s in delays_s:
            answers, killed = killed_under_load(server, root, delay_s, most)
            assert answers == expected, f"{most} killed after {delay_s} s"
            eventually(lambda killed=killed: len(set(pids_titled(run_of(root), TITLE)) - set(killed)) == 2)
    assert ask_all(server) == expected
