"""The default preset on a small machine: one core, 4 GB of memory, a /dev/shm of 64 MB as containers have it."""

import os
import sys
from collections.abc import Generator

import httpx
import psutil
import pytest

from tests.e2e.served import Served, served

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(sys.platform != "linux", reason="cores cannot be chosen, and there is no /dev/shm"),
]

MEMORY_BYTES = 4_000_000_000
SHARED_BYTES = 64_000_000


@pytest.fixture(scope="module")
def one_core_server() -> Generator[Served]:
    """Serve `tiny` from this process's first core only: children inherit the choice."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        with served("tiny") as server:
            yield server
    finally:
        os.sched_setaffinity(0, cores)


def processes(server: Served) -> list[psutil.Process]:
    """Return the server's process and all that it has started, Ray's own included."""
    root = psutil.Process(server.process.pid)
    return [root, *root.children(recursive=True)]


def test_it_answers_within_the_memory_and_the_shared_memory(one_core_server: Served) -> None:
    """Memory is counted once where processes share it."""
    question = {"model": "tiny", "messages": [{"role": "user", "content": "What is 17 + 25?"}], "temperature": 0}
    with httpx.Client(base_url=one_core_server.url, trust_env=False, timeout=120.0) as client:
        answers = {
            client.post("/v1/chat/completions", json=question).json()["choices"][0]["message"]["content"]
            for _ in range(3)
        }
    assert len(answers) == 1
    assert "42" in answers.pop()
    inside = processes(one_core_server)
    assert len(inside) > 6, "the workers are not among the children"
    assert sum(process.memory_full_info().pss for process in inside) < MEMORY_BYTES
    maps = [each for process in inside for each in process.memory_maps() if each.path.startswith("/dev/shm")]
    assert sum(each.pss for each in maps) < SHARED_BYTES
