"""Workers as real processes: the bits of one shard, through kill -9, a hung process, a restart; and nothing left."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from torch import Tensor

from cluster.cluster_spec import ClusterSpec
from cluster.config import AttentionSection, EngineSection, ExpertsSection, ModelSection, NumericsSection
from cluster.errors import HandshakeRefused, WorkerLost
from cluster.launch import LaunchedCluster
from cluster.model_source import open_model
from cluster.remote_side import connect_experts
from cluster.worker_process import WorkerOrder
from model.checkpoint.write import write_random_checkpoint
from model.expert_shard import ExpertShard
from model.load import all_experts, load_experts
from model.moe import GateOutput
from model.numerics import Numerics
from tests.cluster.experts.hand import random_gate, until
from tests.cluster.experts.served import sockets
from tests.support.random_model import random_config
from tests.support.row_independence import same_bits

CONFIG = random_config(num_layers=2, num_experts=8)
ROOT = Path(__file__).resolve().parents[2]


def spec_of(path: Path, num_workers: int = 2, copies: int = 2, **experts: object) -> ClusterSpec:
    return ClusterSpec(
        application="launch-test",
        model=ModelSection(path=str(path)),
        numerics=NumericsSection(mode="precise"),
        engine=EngineSection(max_step_tokens=128),
        experts=ExpertsSection(num_workers=num_workers, copies=copies, **experts),  # pyright: ignore[reportArgumentType]
        attention=AttentionSection(),
    )


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_checkpoint(tmp_path_factory.mktemp("model") / "random", CONFIG, seed=21)


@pytest.fixture(scope="module")
def whole(checkpoint: Path) -> ExpertShard:
    """Return one shard with every expert."""
    source = open_model(str(checkpoint))
    shard = ExpertShard(CONFIG, Numerics.of("precise"), "cpu", dequantized_bytes=10**9)
    load_experts(source, shard, all_experts(source))
    return shard


@pytest.fixture(scope="module")
def cluster(checkpoint: Path) -> Generator[LaunchedCluster]:
    """Give two workers with two copies of each expert; what a test breaks it mends. At the end nothing is left."""
    before = set(threading.enumerate()), sockets(), children()
    with LaunchedCluster(spec_of(checkpoint)) as launched:
        yield launched
        processes = [launched.process(f"worker-{index}") for index in range(2)]
    assert all(process.returncode is not None for process in processes)
    assert children() == before[2]
    until(lambda: set(threading.enumerate()) <= before[0])
    until(lambda: sockets() <= before[1])


def children() -> set[int]:
    """Return the worker processes that are children of this one."""
    found = psutil.Process().children(recursive=True)
    return {child.pid for child in found if "cluster.worker_process" in child.cmdline()}


def a_layer(seed: int, num_tokens: int = 16) -> tuple[Tensor, GateOutput]:
    rng = np.random.default_rng(seed)
    hidden = torch.from_numpy(rng.normal(size=(num_tokens, CONFIG.hidden_size))).bfloat16()
    return hidden, random_gate(rng, num_tokens, CONFIG.num_experts)


def same_as(whole: ExpertShard, cluster: LaunchedCluster, seed: int) -> bool:
    hidden, gate = a_layer(seed)
    layer = seed % CONFIG.num_layers
    return same_bits(cluster.experts.submit(layer, hidden, gate).wait(), whole.submit(layer, hidden, gate).wait())


def test_processes_answer_with_the_bits_of_one_shard(cluster: LaunchedCluster, whole: ExpertShard) -> None:
    assert all(same_as(whole, cluster, seed) for seed in range(20))
    assert len(children()) >= 2


def test_a_worker_killed_with_rows_under_way_is_replaced_by_the_other_copy(
    cluster: LaunchedCluster, whole: ExpertShard
) -> None:
    hidden, gate = a_layer(1)
    expected = whole.submit(0, hidden, gate).wait()
    cluster.pause("worker-0")  # so that it cannot have answered
    pending = cluster.experts.submit(0, hidden, gate)
    started_s = time.monotonic()
    cluster.kill("worker-0")
    assert same_bits(pending.wait(), expected)
    assert time.monotonic() - started_s < 2.0
    assert cluster.experts.counters.resends >= 1
    assert all(same_as(whole, cluster, seed) for seed in range(5))
    cluster.restart("worker-0")
    cluster.experts.wait_until_connected(20.0)
    assert cluster.experts.placement.epoch == 1
    cluster.kill("worker-1")  # now everything rests on the one that was restarted
    assert all(same_as(whole, cluster, seed) for seed in range(5))
    cluster.restart("worker-1")
    cluster.experts.wait_until_connected(20.0)


def test_a_hung_worker_costs_a_moment_once_and_is_asked_again_when_it_has_answered(
    cluster: LaunchedCluster, whole: ExpertShard
) -> None:
    """Long before keepalive notices that it is silent, which takes 2 to 4 s."""
    assert all(same_as(whole, cluster, seed) for seed in range(40))
    counters = cluster.experts.counters
    hedges, dropped = counters.hedges, counters.dropped["late or repeated"]
    cluster.pause("worker-1")
    started_s = time.monotonic()
    try:
        assert all(same_as(whole, cluster, seed) for seed in range(10))
        assert time.monotonic() - started_s < 2.0
        assert "worker-1" in cluster.experts.open_workers
        assert 1 <= counters.hedges - hedges <= 3
    finally:
        cluster.resume("worker-1")
    until(lambda: counters.dropped["late or repeated"] > dropped)  # what the hung worker owed comes too late
    before = counters.sends
    assert all(same_as(whole, cluster, seed) for seed in range(10))
    assert counters.sends - before >= 18, "both workers are asked"


def test_a_silent_worker_loses_its_stream_and_gets_it_back(cluster: LaunchedCluster, whole: ExpertShard) -> None:
    """Keepalive pings go out after 2 s of silence and are given 2 s."""
    cluster.pause("worker-1")
    try:
        until(lambda: "worker-1" not in cluster.experts.open_workers)
        assert same_as(whole, cluster, 4)
    finally:
        cluster.resume("worker-1")
    cluster.experts.wait_until_connected(20.0)


def test_an_older_membership_does_not_undo_a_newer_one(cluster: LaunchedCluster, whole: ExpertShard) -> None:
    (side,) = cluster._sides
    side.publish(replace(cluster.membership, epoch=side.epoch - 1, members=()))
    side.publish(cluster.membership)  # the same again is no harm
    assert all(same_as(whole, cluster, seed) for seed in range(3))
    assert len(cluster.experts.open_workers) == 2


def test_a_worker_whose_bits_would_differ_is_refused(cluster: LaunchedCluster, checkpoint: Path) -> None:
    """The attention side may have other hardware; the workers must agree among themselves."""
    first, second = cluster.membership.members
    mixed = replace(cluster.membership, members=(replace(first, fingerprint="another processor"), second))
    with pytest.raises(HandshakeRefused, match=f"'another processor' is not '{second.fingerprint}'"):
        connect_experts(spec_of(checkpoint), open_model(str(checkpoint)), mixed, cluster.secret)


def test_a_worker_that_cannot_start_says_why_and_takes_the_others_with_it(checkpoint: Path) -> None:
    before = children()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(WorkerLost, match=rf"worker-\d cannot start: .*no port {port} of 127.0.0.1 is free"):
            LaunchedCluster(spec_of(checkpoint, port_range=[port, port]))
    assert children() == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="here a worker can have a GPU")
def test_a_worker_that_fails_unexpectedly_says_why_too(checkpoint: Path) -> None:
    """What torch raises for a device that is not there is no error of ours."""
    before = children()
    with pytest.raises(WorkerLost, match=r"worker-\d cannot start: \w+Error: .*(CUDA|NVIDIA)"):
        LaunchedCluster(spec_of(checkpoint, device="cuda"))
    assert children() == before


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_workers_on_a_gpu_answer_with_the_bits_of_a_shard_there(checkpoint: Path) -> None:
    source = open_model(str(checkpoint))
    shard = ExpertShard(CONFIG, Numerics.of("precise"), "cuda", dequantized_bytes=10**9)
    load_experts(source, shard, all_experts(source))
    with LaunchedCluster(spec_of(checkpoint, device="cuda")) as cluster:
        for seed in range(5):
            hidden, gate = a_layer(seed)
            there = GateOutput(gate.expert_ids.cuda(), gate.weights.cuda())
            expected = shard.submit(0, hidden.cuda(), there).wait().cpu()
            assert same_bits(cluster.experts.submit(0, hidden, gate).wait(), expected)


def test_a_start_that_takes_too_long_is_given_up(checkpoint: Path) -> None:
    before = children()
    with pytest.raises(WorkerLost, match=r"worker-0 did not start within 0.01 s"):
        LaunchedCluster(spec_of(checkpoint, num_workers=1, copies=1), start_timeout_s=0.01)
    assert children() == before


def test_workers_end_when_the_process_that_started_them_is_killed(checkpoint: Path) -> None:
    order = WorkerOrder(spec_of(checkpoint, num_workers=1, copies=1), 0, "secret")
    program = (
        "import subprocess, sys, time\n"
        "worker = subprocess.Popen([sys.executable, '-m', 'cluster.worker_process'], stdin=subprocess.PIPE,"
        " stdout=subprocess.PIPE, start_new_session=True)\n"
        "worker.stdin.write(sys.argv[1].encode() + b'\\n')\n"
        "worker.stdin.flush()\n"
        "while b'port' not in worker.stdout.readline(): pass\n"
        "print(worker.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", program, order.to_json()], stdout=subprocess.PIPE, env=environment
    ) as parent:
        assert parent.stdout is not None
        worker = psutil.Process(int(parent.stdout.readline()))
        assert worker.is_running()
        parent.send_signal(signal.SIGKILL)
        worker.wait(10)


def test_an_order_arrives_as_it_was_given(checkpoint: Path) -> None:
    order = WorkerOrder(spec_of(checkpoint, port_range=[4000, 4010]), 1, "secret ü")
    assert WorkerOrder.from_json(order.to_json()) == order
