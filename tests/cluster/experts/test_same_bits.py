"""Placement changes where, never what: the same bits from one shard and from any number of workers, however placed.

Random experts in MXFP4, real shards, rows through real frames, and the combine that sums them. The negative controls
show that the comparison would notice a sum taken elsewhere or in another order.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from cluster.experts.handshake import new_incarnation
from cluster.experts.messages import FrameFormat
from cluster.experts.placement import Placement
from cluster.experts.remote_experts import RemoteExperts
from cluster.experts.token_dispatcher import DispatchLimits, TokenDispatcher
from cluster.experts.transport import LocalTransport
from model.checkpoint.random_weights import RandomWeights
from model.expert_shard import ExpertShard
from model.moe import GateOutput, combine
from model.numerics import Numerics
from tests.cluster.experts.hand import names, random_gate
from tests.cluster.experts.served import meshed, nothing_left
from tests.support.random_model import random_config
from tests.support.row_independence import same_bits

CONFIG = random_config(num_layers=2, num_experts=8, experts_per_token=4)
SOURCE = RandomWeights(CONFIG, seed=11)
SIZES = (1, 2, 7, 33, 64)
MODES = ("precise", "int8", "float32")


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    with nothing_left():
        yield


def shard_with(keys: object, mode: str) -> ExpertShard:
    shard = ExpertShard(CONFIG, Numerics.of(mode), "cpu", dequantized_bytes=10**9)
    for layer, expert in sorted(keys):  # pyright: ignore[reportArgumentType]
        shard.put(layer, expert, SOURCE.expert(layer, expert))
    return shard


def random_placement(rng: np.random.Generator, num_workers: int) -> Placement:
    """Return a placement with one to all copies of each expert, anywhere."""
    copies = tuple(
        tuple(
            tuple(rng.permutation(num_workers)[: rng.integers(1, num_workers + 1)].tolist())
            for _ in range(CONFIG.num_experts)
        )
        for _ in range(CONFIG.num_layers)
    )
    return Placement(0, CONFIG.num_layers, CONFIG.num_experts, tuple(names(num_workers)), copies)


def cases(mode: str) -> list[tuple[int, Tensor, GateOutput]]:
    """Return (layer, hidden, gate) at awkward sizes, the same every time."""
    rng = np.random.default_rng(2)
    dtype = Numerics.of(mode).expert_input
    return [
        (
            index % CONFIG.num_layers,
            torch.from_numpy(rng.normal(size=(size, CONFIG.hidden_size))).to(dtype),
            random_gate(rng, size, CONFIG.num_experts),
        )
        for index, size in enumerate(SIZES)
    ]


def everything(mode: str) -> ExpertShard:
    return shard_with(Placement.collapsed(CONFIG.num_layers, CONFIG.num_experts).experts_on("local"), mode)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("num_workers", [1, 2, 4])
@pytest.mark.parametrize("kind", ["local", "grpc"])
def test_the_same_bits_from_any_workers_and_any_placement(kind: str, num_workers: int, mode: str) -> None:
    whole = everything(mode)
    wire = FrameFormat.of(CONFIG, Numerics.of(mode), max_rows=128)
    for seed in range(3):
        placement = random_placement(np.random.default_rng(seed), num_workers)
        shards = {worker: shard_with(placement.experts_on(worker), mode) for worker in placement.workers}
        with meshed(kind, placement, shards, wire) as mesh:
            for layer, hidden, gate in cases(mode):
                outputs = mesh.experts.submit(layer, hidden, gate).wait()
                alone = whole.submit(layer, hidden, gate).wait()
                assert same_bits(outputs, alone)
                assert same_bits(combine(outputs, gate.weights), combine(alone, gate.weights))


def test_a_rebalance_under_way_changes_no_bits() -> None:
    """Two workers hold everything; a new placement is published between any two layers."""
    rng = np.random.default_rng(9)
    wire = FrameFormat.of(CONFIG, Numerics.of("precise"), max_rows=128)
    whole = everything("precise")
    shards = dict.fromkeys(names(2), whole)
    with meshed("local", random_placement(rng, 2), shards, wire) as mesh:
        for epoch in range(1, 20):
            mesh.experts.publish(replace(random_placement(rng, 2), epoch=epoch))
            layer, hidden, gate = cases("precise")[epoch % len(SIZES)]
            assert same_bits(mesh.experts.submit(layer, hidden, gate).wait(), whole.submit(layer, hidden, gate).wait())


def partial_sums(outputs: Tensor, gate: GateOutput, workers: Tensor) -> Tensor:
    """Return the sum that workers would give which each sum their own pairs: the first negative control.

    workers [T, K] says who computed each pair.
    """
    weighted = outputs.float() * gate.weights[:, :, None]
    parts = [(weighted * (workers == worker)[:, :, None]).sum(dim=1) for worker in workers.unique().tolist()]
    return torch.stack(parts).sum(dim=0)


def arrival_order(outputs: Tensor, gate: GateOutput, order: list[int]) -> Tensor:
    """Return the sum in the order of arrival, not that of the gate: the second negative control."""
    return combine(outputs[:, order], gate.weights[:, order])


@pytest.mark.parametrize("mode", MODES)
def test_partial_sums_and_sums_by_arrival_are_told_apart_from_the_combine(mode: str) -> None:
    whole = everything(mode)
    placement = Placement.uniform(CONFIG.num_layers, CONFIG.num_experts, names(3))
    found = {"partial": 0, "arrival": 0}
    for layer, hidden, gate in cases(mode):
        outputs = whole.submit(layer, hidden, gate).wait()
        right = combine(outputs, gate.weights)
        workers = torch.from_numpy(placement.primary_table()[layer])[gate.expert_ids]
        found["partial"] += not same_bits(partial_sums(outputs, gate, workers), right)
        found["arrival"] += not same_bits(arrival_order(outputs, gate, [2, 0, 3, 1]), right)
    assert found == {"partial": len(SIZES), "arrival": len(SIZES)}


def test_a_worker_that_holds_another_model_is_told_apart() -> None:
    """The third negative control: one worker's weights come from another seed."""
    placement = Placement.uniform(CONFIG.num_layers, CONFIG.num_experts, names(2))
    shards = {worker: shard_with(placement.experts_on(worker), "precise") for worker in placement.workers}
    for layer, expert in placement.experts_on("worker-1"):
        shards["worker-1"].put(layer, expert, RandomWeights(CONFIG, seed=12).expert(layer, expert))
    wire = FrameFormat.of(CONFIG, Numerics.of("precise"), max_rows=128)
    dispatcher = TokenDispatcher(placement, new_incarnation(), wire.output_dtype, DispatchLimits())
    experts = RemoteExperts(dispatcher, LocalTransport(shards), wire)
    layer, hidden, gate = cases("precise")[-1]
    assert not same_bits(
        experts.submit(layer, hidden, gate).wait(), everything("precise").submit(layer, hidden, gate).wait()
    )
    experts.close()
