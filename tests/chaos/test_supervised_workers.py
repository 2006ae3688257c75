"""A served application on Ray whose expert workers are all killed under load: the supervisor makes them anew.

Two workers with two copies of each expert and no fallback: the first kill finds another copy, the second leaves none,
so that every step waits for a worker of the supervisor. Sixteen clients see only that it takes longer.
"""

import os
import signal
import threading
import time
from collections.abc import Generator
from pathlib import Path

import httpx
import pytest

from tests.chaos.served_load import ask_all
from tests.e2e.served import Served, is_port_free, served
from tests.e2e.test_cluster_life import empty_root, eventually, pids_titled, run_of

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

OPTIONS = ("--set", "experts.num_workers=2", "--set", "experts.copies=2", "--set", "experts.fallback_bytes=0")


@pytest.fixture(scope="module")
def root() -> Generator[Path]:
    with empty_root("ch") as path:
        yield path


@pytest.fixture(scope="module")
def server(root: Path) -> Generator[Served]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(root))
        with served("tiny", *OPTIONS) as running:
            patch.undo()
            yield running
    assert is_port_free([running.http_port, running.grpc_port])


def test_all_workers_die_one_after_the_other_and_no_client_sees_more_than_a_pause(server: Served, root: Path) -> None:
    expected = ask_all(server)
    assert len(expected) >= 16
    killed: list[int] = []

    def kill_all() -> None:
        for pid in pids_titled(run_of(root), "ray::ExpertWorker"):
            time.sleep(0.3)
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)

    killer = threading.Thread(target=kill_all)
    killer.start()
    answers = ask_all(server)
    assert len(killed) == 2, "the requests were over too soon"
    killer.join()
    assert answers == expected
    eventually(lambda: len(pids_titled(run_of(root), "ray::ExpertWorker")) == 2)
    assert not set(killed) & set(pids_titled(run_of(root), "ray::ExpertWorker"))
    ready = f"{server.url}/ready"
    eventually(lambda: httpx.get(ready, trust_env=False).json()["placement"].startswith("2 of 2 workers"))
    assert ask_all(server) == expected
