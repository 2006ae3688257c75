"""A served application on Ray whose experts follow the traffic and the number of workers, all of it under load.

There is no fallback, and one copy of all experts but the spare ones: asked for an expert that nobody holds, a request
would wait until the test's time is over.
"""

import os
import re
import signal
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.chaos.served_load import ask_all
from tests.e2e.served import Served, is_port_free, served
from tests.e2e.test_cluster_life import empty_root, eventually, pids_titled, run_of

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

SETTINGS = {"num_workers": 3, "copies": 1, "num_spare_slots": 1, "rebalance_interval_s": 0.5, "fallback_bytes": 0}
OPTIONS = [part for name, value in SETTINGS.items() for part in ("--set", f"experts.{name}={value}")]


@pytest.fixture(scope="module")
def root() -> Generator[Path]:
    with empty_root("cm") as path:
        yield path


@pytest.fixture(scope="module")
def server(root: Path) -> Generator[Served]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(root))
        with served("tiny", *OPTIONS) as running:
            patch.undo()
            yield running
    assert is_port_free([running.http_port, running.grpc_port])


@pytest.fixture(scope="module")
def expected(server: Served) -> dict[str, Any]:
    """What clients are told when nothing happens."""
    return ask_all(server)


def placement(server: Served) -> str:
    """Return where the experts are; whatever moves, and whoever died, it serves all the time."""
    answer = httpx.get(f"{server.url}/ready", trust_env=False)
    assert answer.is_success, answer.text
    return str(answer.json()["placement"])


def num_moved(server: Served) -> int:
    found = re.search(r"(\d+) experts moved", placement(server))
    return int(found[1]) if found else 0


def test_moved_experts_outlive_a_worker_and_the_supervisor(
    server: Served, root: Path, expected: dict[str, Any]
) -> None:
    eventually(lambda: num_moved(server) > 0)
    (victim, *_) = pids_titled(run_of(root), "ray::ExpertWorker")
    os.kill(victim, signal.SIGKILL)
    assert ask_all(server) == expected
    eventually(lambda: placement(server).startswith("3 of 3 workers"))
    (supervisor,) = pids_titled(run_of(root), "ray::Supervisor")
    os.kill(supervisor, signal.SIGKILL)
    eventually(lambda: pids_titled(run_of(root), "ray::Supervisor") not in ([], [supervisor]))
    eventually(lambda: placement(server).startswith("3 of 3 workers"))
    assert ask_all(server) == expected


def scale(server: Served, num_workers: int) -> None:
    """Ask for so many workers; a supervisor that was just made anew may need a moment to hear from attention."""

    def is_taken() -> bool:
        body, url = {"num_workers": num_workers}, f"{server.url}/cluster/workers"
        return httpx.put(url, json=body, trust_env=False, timeout=30).is_success

    eventually(is_taken)


def ask_all_while_scaling(server: Served, root: Path, num_workers: int) -> dict[str, Any]:
    """Return the answers to load that begins with the change; then so many workers hold all experts, and no others."""
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask_all, server)
        scale(server, num_workers)
        words = f"{num_workers} of {num_workers} workers" if num_workers else "collapsed"
        whole = re.compile(f"{words}(?!.*still on)")
        eventually(lambda: whole.match(placement(server)) is not None)
        eventually(lambda: len(pids_titled(run_of(root), "ray::ExpertWorker")) == num_workers)
        return asked.result()


def test_workers_join_and_leave_under_load(server: Served, root: Path, expected: dict[str, Any]) -> None:
    assert ask_all_while_scaling(server, root, 5) == expected
    assert ask_all_while_scaling(server, root, 2) == expected


def test_all_experts_come_beside_attention_and_go_again_under_load(
    server: Served, root: Path, expected: dict[str, Any]
) -> None:
    assert ask_all_while_scaling(server, root, 0) == expected
    (supervisor,) = pids_titled(run_of(root), "ray::Supervisor")
    os.kill(supervisor, signal.SIGKILL)
    eventually(lambda: pids_titled(run_of(root), "ray::Supervisor") not in ([], [supervisor]))
    assert ask_all_while_scaling(server, root, 2) == expected
    assert ask_all(server) == expected
