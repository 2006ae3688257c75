"""One disaggregated cluster through its life: a worker dies, a client leaves, a second server comes and is killed."""

import ipaddress
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from cluster.warden import Run, processes_of
from tests.e2e.served import Served, free_port, is_port_free, served, wait_until_ready

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

NUM_STREAMS = 8
NUM_TOKENS = 40


@contextmanager
def empty_root(name: str) -> Generator[Path]:
    """Yield an own directory for what runs leave behind, and fail if anything is; short, for the sake of sockets."""
    path = Path(f"/tmp/{name}{os.getpid() % 100_000}")
    path.mkdir()
    yield path
    path.rmdir()


@pytest.fixture(scope="module")
def run_root() -> Generator[Path]:
    """The directory of the first server's run."""
    with empty_root("em") as path:
        yield path


@pytest.fixture(scope="module")
def cluster(run_root: Path) -> Generator[Served]:
    """The tiny model on one attention replica and four expert workers, and its run directory gone afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(run_root))
        # Proxies that lead nowhere: nothing inside may go through them.
        for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "grpc_proxy", "all_proxy"):
            patch.setenv(name, "http://127.0.0.1:9")
        with served("tiny") as server:
            patch.undo()
            yield server
    assert is_port_free([server.http_port, server.grpc_port])


@pytest.fixture
def client(cluster: Served) -> Generator[httpx.Client]:
    with httpx.Client(base_url=cluster.url, trust_env=False, timeout=120) as client:
        yield client


def eventually(claim: Callable[[], bool], timeout_s: float = 60.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not claim():
        assert time.monotonic() < deadline_s, "the claim did not come true"
        time.sleep(0.1)


def run_of(run_root: Path) -> Run:
    (run_dir,) = run_root.glob("expertmesh-*")
    return Run("no mark", str(run_dir), frozenset())


def pids_titled(run: Run, title: str) -> list[int]:
    def has_title(pid: int) -> bool:
        return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(title.encode())

    return [pid for pid in processes_of(run) if has_title(pid)]


def complete(client: httpx.Client, seed: int, num_tokens: int = NUM_TOKENS) -> dict[str, Any]:
    """Return a random continuation with the logprob of every token: equal ones had equal bits in every layer."""
    body = {"model": "tiny", "prompt": "Once upon a time", "max_tokens": num_tokens, "seed": seed, "temperature": 1.5}
    answer = client.post("/v1/completions", json=body | {"logprobs": 2, "ignore_eos": True})
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]


def complete_all(client: httpx.Client) -> list[dict[str, Any]]:
    with ThreadPoolExecutor(NUM_STREAMS) as pool:
        return list(pool.map(lambda seed: complete(client, seed), range(NUM_STREAMS)))


def gauge(client: httpx.Client, name: str) -> float:
    (line,) = [line for line in client.get("/metrics").text.splitlines() if line.startswith(name)]
    return float(line.rsplit(" ", 1)[1])


def num_running(client: httpx.Client) -> float:
    return gauge(client, 'expertmesh_engine_sequences{state="running"}')


def test_its_start_has_told_what_it_was_at_and_ended_with_a_table(cluster: Served) -> None:
    """A first start compiles the kernels: that is said, by whoever does it."""
    eventually(lambda: "epoch 0" in cluster.log.read_text(encoding="utf-8"))
    told = cluster.log.read_text(encoding="utf-8")
    for line in ("attention: preparing the kernels", "experts: preparing the kernels", "experts: ready, all 4 workers"):
        assert line in told, told
    table = told.partition("Ready after ")[2]
    url = f"http://127.0.0.1:{cluster.http_port}/v1"
    for row in (f"HTTP +{url}", "model +tiny", "experts +4 of 4 workers, 2 copies of each"):
        assert re.search(row, table), told


def test_requests_go_on_through_the_death_of_a_worker_and_it_is_made_anew(client: httpx.Client, run_root: Path) -> None:
    expected = complete_all(client)
    workers = pids_titled(run_of(run_root), "ray::ExpertWorker")
    assert len(workers) == 4
    killer = threading.Timer(0.5, os.kill, (workers[0], signal.SIGKILL))
    killer.start()
    assert complete_all(client) == expected
    killer.join()
    eventually(lambda: "incarnation 2" in client.get("/ready").text)
    eventually(lambda: client.get("/ready").json()["placement"].startswith("4 of 4 workers"))
    assert complete_all(client) == expected
    assert workers[0] not in pids_titled(run_of(run_root), "ray::ExpertWorker")


def test_the_death_of_the_supervisor_is_no_matter_and_it_comes_back_to_its_workers(
    client: httpx.Client, run_root: Path
) -> None:
    expected = complete(client, seed=5)
    workers = sorted(pids_titled(run_of(run_root), "ray::ExpertWorker"))
    (supervisor,) = pids_titled(run_of(run_root), "ray::Supervisor")
    os.kill(supervisor, signal.SIGKILL)
    assert complete(client, seed=5) == expected
    eventually(lambda: pids_titled(run_of(run_root), "ray::Supervisor") not in ([], [supervisor]))
    for _ in range(10):
        assert complete(client, seed=5) == expected
    eventually(lambda: client.get("/ready").json()["placement"].startswith("4 of 4 workers"))
    assert sorted(pids_titled(run_of(run_root), "ray::ExpertWorker")) == workers, "a worker was made anew"


def test_requests_go_on_after_the_death_of_the_only_attention_replica_once_another_is_there(
    client: httpx.Client, run_root: Path
) -> None:
    expected = complete(client, seed=6, num_tokens=800)
    (attention,) = pids_titled(run_of(run_root), "ray::ServeReplica:expertmesh:Attention")
    killer = threading.Timer(0.5, os.kill, (attention, signal.SIGKILL))
    killer.start()
    assert complete(client, seed=6, num_tokens=800) == expected
    assert attention not in pids_titled(run_of(run_root), "ray::ServeReplica:expertmesh:Attention")


def test_a_client_that_leaves_frees_its_blocks(client: httpx.Client) -> None:
    body = {"model": "tiny", "prompt": "x", "max_tokens": 3000, "seed": 1, "stream": True, "ignore_eos": True}
    with client.stream("POST", "/v1/completions", json=body) as answer:
        lines = answer.iter_lines()
        next(lines)
        eventually(lambda: num_running(client) == 1)
    eventually(lambda: num_running(client) == 0, timeout_s=15)
    eventually(lambda: gauge(client, 'expertmesh_engine_kv_blocks{state="used"}') == 0, timeout_s=15)


def test_a_second_server_beside_the_first_has_the_same_tokens_and_killed_it_leaves_nothing(
    client: httpx.Client,
) -> None:
    expected = complete(client, seed=3)
    with empty_root("es") as root, tempfile.TemporaryDirectory() as logs:
        ports = free_port(), free_port()
        launcher = launch("tiny-collapsed", ports, root, Path(logs, "log"))
        try:
            wait_until_ready(launcher, ports[0], Path(logs, "log"))
            with httpx.Client(base_url=f"http://127.0.0.1:{ports[0]}", trust_env=False, timeout=120) as second:
                assert complete(second, seed=3) == expected
            run = run_of(root)
            assert len(list(processes_of(run))) > 5
        finally:
            launcher.kill()
            launcher.wait()
        eventually(lambda: not list(root.iterdir()), timeout_s=20)
        assert list(processes_of(run)) == []
        assert is_port_free(ports)
    assert complete(client, seed=3) == expected, "the first server has not noticed"


def launch(preset: str, ports: tuple[int, int], root: Path, log: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "router.cli", "serve", preset, "--port", str(ports[0])]
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"} | {"TMPDIR": str(root)}
    with log.open("wb") as out:
        return subprocess.Popen(
            [*command, "--grpc-port", str(ports[1])], stdout=out, stderr=subprocess.STDOUT, env=environment
        )


def test_a_taken_port_is_one_line_that_names_the_flag(cluster: Served) -> None:
    command = [sys.executable, "-m", "router.cli", "serve", "tiny", "--port", str(cluster.http_port)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert ended.stderr.strip() == f"error: port {cluster.http_port} is taken: choose another with --port"


def test_only_what_is_meant_for_clients_listens(cluster: Served, run_root: Path) -> None:
    """Beyond loopback nothing listens but Serve's own servers of its replicas, which ask for Ray's token."""
    listening = listeners(run_of(run_root))
    assert ("127.0.0.1", cluster.http_port) in listening
    assert ("127.0.0.1", cluster.grpc_port) in listening
    open_to_all = [port for address, port in listening if not address.startswith("127.")]
    assert len(open_to_all) <= 2, listening
    assert [answer_to_strangers(port) for port in open_to_all] == [grpc.StatusCode.UNAUTHENTICATED] * len(open_to_all)
    assert answer_to_strangers(cluster.grpc_port) is grpc.StatusCode.UNIMPLEMENTED, "ours, which has no such method"


def answer_to_strangers(port: int) -> grpc.StatusCode:
    """Return what a call between Serve's replicas gets there that brings no token."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call: Any = channel.unary_unary("/ray.serve.ASGIService/HandleRequest")
        with pytest.raises(grpc.RpcError) as caught:
            call(b"", timeout=30)
    error: Any = caught.value
    return error.code()


def listeners(run: Run) -> set[tuple[str, int]]:
    """Return (address, port) of every listening TCP socket of the run's processes; IPv4-mapped ones as IPv4."""
    inodes: set[str] = set()
    for pid in processes_of(run):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            try:
                target = os.readlink(link)
            except OSError:
                continue
            inodes.update([target[8:-1]] if target.startswith("socket:[") else [])
    found: set[tuple[str, int]] = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text(encoding="ascii").splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                address, port = fields[1].split(":")
                found.add((_ip(address), int(port, 16)))
    return found


def _ip(address: str) -> str:
    """Return the address that /proc writes as words of four bytes, each in reverse order."""
    words = [bytes.fromhex(address[start : start + 8])[::-1] for start in range(0, len(address), 8)]
    packed = b"".join(words)
    ip = ipaddress.ip_address(packed)
    return str(getattr(ip, "ipv4_mapped", None) or ip)
