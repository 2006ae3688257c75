"""Ray's control process is killed under streams and comes back on the same Redis: nobody is asked to wait for it.

Needs a redis-server on the PATH, or named by EXPERTMESH_REDIS_SERVER.
"""

import os
import re
import signal
import subprocess
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from router.failover.answers import Answer, ask_all
from router.failover.questions import COMPLETIONS, Question
from tests.e2e.served import Served, served
from tests.e2e.test_cluster_life import eventually
from tests.support.ray_nodes import ray_nodes
from tests.support.redis_server import BINARY_VARIABLE, redis_binary, redis_server

REDIS = redis_binary()
pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(REDIS is None, reason=f"no redis-server on the PATH, and none named by {BINARY_VARIABLE}"),
]

DOWN_S = 4.0
"""How long there is no control process: far less than RAY_gcs_rpc_server_reconnect_timeout_s."""
SETTINGS = ("--set", 'experts.worker_resources={"expert": 1}', "--set", "experts.num_workers=2")
STREAMS = [
    Question(
        f"stream {seed}",
        COMPLETIONS,
        {
            "prompt": "Once upon a time",
            "max_tokens": 600,
            "temperature": 0.0 if seed == 0 else 1.5,
            "seed": seed,
            "ignore_eos": True,
            "logprobs": 2,
            "stream": True,
        },
    )
    for seed in range(4)
]


@dataclass
class Control:
    """The GCS of a cluster, as a process that can be killed and started again as it was."""

    process: psutil.Process
    port: int

    def __post_init__(self) -> None:
        """Take down how it was started."""
        self._environment = self.process.environ()
        self._command = [
            f"--gcs_server_port={self.port}" if part.startswith("--gcs_server_port=") else part
            for part in self.process.cmdline()
        ]
        self._restarted: subprocess.Popen[bytes] | None = None

    def kill(self) -> None:
        """End it without warning, and return when it is gone."""
        self.process.send_signal(signal.SIGKILL)
        eventually(lambda: not self.process.is_running() or self.process.status() == psutil.STATUS_ZOMBIE)

    def restart(self) -> None:
        """Start another one with the same arguments: the same port, the same Redis."""
        self._restarted = subprocess.Popen(
            self._command, env=self._environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def close(self) -> None:
        """End the one that was restarted."""
        if self._restarted is not None:
            self._restarted.kill()
            self._restarted.wait(20)


@pytest.fixture(scope="module")
def server() -> Generator[tuple[Served, Control]]:
    """The tiny model on two nodes of a Ray that keeps its state in Redis, and that Ray's control process."""
    assert REDIS is not None
    with pytest.MonkeyPatch.context() as patch, redis_server(REDIS) as redis:
        for name, value in redis.items():
            patch.setenv(name, value)
        with ray_nodes([{"attention": 1}, {"expert": 2}]) as nodes:
            for name, value in nodes.items():
                patch.setenv(name, value)
            control = Control(gcs_of(nodes["RAY_TMPDIR"]), int(nodes["RAY_ADDRESS"].rsplit(":", 1)[1]))
            with served("tiny", *SETTINGS, joins_ray=True) as running:
                yield running, control
        control.close()


def gcs_of(ray_directory: str) -> psutil.Process:
    """Return the control process of the Ray that lives in a directory."""
    (found,) = [
        process
        for process in psutil.process_iter()
        if process.status() != psutil.STATUS_ZOMBIE
        and (command := process.cmdline())
        and command[0].endswith("gcs_server")
        and ray_directory in " ".join(command)
    ]
    return found


def pids_titled(title: str, ray_directory: str) -> list[int]:
    """Return the living processes of a role in that Ray: those whose environment names its directory."""
    return [
        process.pid
        for process in psutil.process_iter()
        if process.status() != psutil.STATUS_ZOMBIE
        and " ".join(process.cmdline()).startswith(title)
        and f"RAY_TMPDIR={ray_directory}".encode() in Path(f"/proc/{process.pid}/environ").read_bytes()
    ]


def model_of(server: Served) -> str:
    return str(httpx.get(f"{server.url}/v1/models", trust_env=False, timeout=60).json()["data"][0]["id"])


def choices(answers: list[Answer]) -> list[object]:
    assert [answer.error for answer in answers] == [None] * len(answers)
    return [answer.choices for answer in answers]


def placement(server: Served) -> str:
    return str(httpx.get(f"{server.url}/ready", trust_env=False, timeout=60).json()["placement"])


def test_streams_go_on_without_the_gcs_and_control_is_found_again_on_the_same_redis(
    server: tuple[Served, Control],
) -> None:
    """First without it: old streams and new requests. Then with it: nobody was made anew, and who dies now is."""
    running, control = server
    directory, model = os.environ["RAY_TMPDIR"], model_of(running)
    expected = choices(ask_all(running.url, model, STREAMS))
    titles = ("ray::ExpertWorker", "ray::Supervisor", "ray::ServeReplica:expertmesh:Attention")
    before = {title: sorted(pids_titled(title, directory)) for title in titles}
    assert list(map(len, before.values())) == [2, 1, 1]
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask_all, running.url, model, STREAMS)
        time.sleep(0.5)
        control.kill()
        killed_s = time.monotonic()
        assert choices(ask_all(running.url, model, STREAMS[:1])) == expected[:1], "asked while there is no GCS"
        time.sleep(max(0.0, killed_s + DOWN_S - time.monotonic()))
        control.restart()
        restarted_s = time.monotonic()
        answers = asked.result(timeout=240)
    assert choices(answers) == expected
    without_it = [at_s for answer in answers for at_s in answer.arrivals_s if killed_s < at_s < restarted_s]
    assert len(without_it) > len(STREAMS), "the streams were over too soon, or stood still"
    assert choices(ask_all(running.url, model, STREAMS)) == expected
    assert {title: sorted(pids_titled(title, directory)) for title in titles} == before
    for title in ("ray::ExpertWorker", "ray::Supervisor"):
        victim = before[title][0]
        os.kill(victim, signal.SIGKILL)
        eventually(
            lambda title=title, victim=victim: len(set(pids_titled(title, directory)) - {victim}) == len(before[title]),
            timeout_s=120.0,
        )
    eventually(lambda: bool(re.match("2 of 2 workers", placement(running))), timeout_s=120.0)
    assert choices(ask_all(running.url, model, STREAMS)) == expected
