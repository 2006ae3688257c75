"""Hand-made workers: shards whose outputs are worked out on paper, hosts and servers around them."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from cluster.experts.expert_host import ExpertHost, MovableShard, WorkerIdentity
from cluster.experts.handshake import Agreement
from cluster.experts.messages import ExpertRequest, FrameFormat, FrameKey, byte_rows
from cluster.experts.placement import ExpertKey, IntArray, Placement
from model.checkpoint.weights import ExpertWeights
from model.moe import Finished, GateOutput
from model.mxfp4 import Mxfp4Tensor

AGREEMENT = Agreement(model_digest="hand-model", fingerprint="hand-numerics")
SECRET = "a secret of the cluster"


def frame_format(
    num_layers: int = 3, num_experts: int = 8, hidden_size: int = 4, dtype: torch.dtype = torch.float32
) -> FrameFormat:
    """Return the format of a small model with 4 experts per token."""
    return FrameFormat(num_layers, num_experts, 4, hidden_size, dtype, dtype, max_rows=4096)


def no_weights() -> ExpertWeights:
    """Return the weights of an expert that needs none."""
    nothing = Mxfp4Tensor(torch.zeros(0, 1, 16, dtype=torch.uint8), torch.zeros(0, 1, dtype=torch.uint8))
    return ExpertWeights(nothing, torch.zeros(0), nothing, torch.zeros(0))


@dataclass
class HandShard:
    """An ExpertShard whose expert e returns its input times e + 1, in every layer."""

    held: set[ExpertKey] = field(default_factory=set[ExpertKey])
    num_calls: int = 0
    failure: str | None = None
    """What the device fails with, if it does."""

    def put(self, layer: int, expert: int, weights: ExpertWeights) -> None:
        self.held.add((layer, expert))

    def drop(self, layer: int, expert: int) -> None:
        self.held.discard((layer, expert))

    def has(self, layer: int, expert: int) -> bool:
        return (layer, expert) in self.held

    def resident(self) -> frozenset[ExpertKey]:
        return frozenset(self.held)

    def weight_bytes(self) -> int:
        return 10 * len(self.held)

    def forward(self, layer: int, rows: Tensor, row_ids: Tensor, expert_ids: Tensor) -> Tensor:
        self.num_calls += 1
        if self.failure:
            raise RuntimeError(self.failure)
        assert all(self.has(layer, expert) for expert in expert_ids.tolist()), "asked for an expert that is not here"
        return rows[row_ids] * (expert_ids + 1).to(rows.dtype)[:, None]

    def submit(self, layer: int, hidden: Tensor, gate: GateOutput) -> Finished:
        num_tokens, num_chosen = gate.expert_ids.shape
        row_ids = torch.arange(num_tokens).repeat_interleave(num_chosen)
        return Finished(
            self.forward(layer, hidden, row_ids, gate.expert_ids.reshape(-1)).view(num_tokens, num_chosen, -1)
        )


def hand_shards(placement: Placement) -> dict[str, HandShard]:
    """Return a shard for every worker of `placement`, with its experts."""
    return {worker: HandShard(set(placement.experts_on(worker))) for worker in placement.workers}


def hand_host(worker: str, shard: MovableShard, wire: FrameFormat, agreement: Agreement = AGREEMENT) -> ExpertHost:
    """Return a worker around `shard`; any expert can be put to it."""
    return ExpertHost(shard, wire, WorkerIdentity(worker, agreement), lambda layer, expert: no_weights())


def random_gate(rng: np.random.Generator, num_tokens: int, num_experts: int, num_chosen: int = 4) -> GateOutput:
    """Return a gate's output with distinct experts for each token."""
    expert_ids = np.stack([rng.permutation(num_experts)[:num_chosen] for _ in range(num_tokens)])
    weights = rng.random((num_tokens, num_chosen), dtype=np.float32)
    return GateOutput(torch.from_numpy(expert_ids), torch.from_numpy(weights))


def request_of(key: FrameKey, rows: Tensor, pair_rows: IntArray, expert_ids: IntArray, epoch: int = 0) -> ExpertRequest:
    """Return a request for rows [R, H]."""
    return ExpertRequest(key, epoch, rows.dtype, byte_rows(rows.contiguous()), pair_rows, expert_ids)


def names(count: int) -> list[str]:
    """Return the names of `count` workers."""
    return [f"worker-{index}" for index in range(count)]


def until(condition: Callable[[], object], timeout_s: float = 10.0) -> None:
    """Return as soon as `condition` holds; fail after `timeout_s`."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, f"not within {timeout_s} s"
        time.sleep(0.002)
