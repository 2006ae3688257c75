"""The fallback shard: the bits of a worker, filled lazily, bounded in bytes."""

import numpy as np
import pytest
import torch

from cluster.experts.fallback_shard import FallbackShard
from cluster.experts.messages import ExpertFailure, ExpertReply, FrameKey, answer_request
from model.checkpoint.random_weights import RandomWeights
from model.checkpoint.weights import ExpertWeights
from model.errors import CheckpointDamaged
from model.expert_shard import ExpertShard
from model.numerics import Numerics
from tests.cluster.experts.hand import request_of
from tests.support.random_model import random_config
from tests.support.row_independence import same_bits

CONFIG = random_config(num_layers=2, num_experts=8, experts_per_token=4)
SOURCE = RandomWeights(CONFIG, seed=11)
MODES = ("precise", "float32")


def empty(mode: str = "precise") -> ExpertShard:
    return ExpertShard(CONFIG, Numerics.of(mode), "cpu", dequantized_bytes=0)


def expert_bytes() -> int:
    shard = empty()
    shard.put(0, 0, SOURCE.expert(0, 0))
    return shard.weight_bytes()


def compute(shard: FallbackShard, layer: int, expert_ids: list[int]) -> torch.Tensor:
    rows = torch.ones(1, CONFIG.hidden_size, dtype=torch.bfloat16)
    return shard.forward(layer, rows, torch.zeros(len(expert_ids), dtype=torch.int64), torch.tensor(expert_ids))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("num_rows", [1, 2, 7, 33])
def test_it_gives_the_bits_of_a_worker(mode: str, num_rows: int) -> None:
    rng = np.random.default_rng(num_rows)
    rows = torch.from_numpy(rng.normal(size=(num_rows, CONFIG.hidden_size))).to(Numerics.of(mode).expert_input)
    row_ids = torch.from_numpy(rng.integers(0, num_rows, 4 * num_rows))
    expert_ids = torch.from_numpy(rng.integers(0, CONFIG.num_experts, 4 * num_rows))
    worker = ExpertShard(CONFIG, Numerics.of(mode), "cpu", dequantized_bytes=10**9)
    for expert in range(CONFIG.num_experts):
        worker.put(1, expert, SOURCE.expert(1, expert))
    fallback = FallbackShard(empty(mode), SOURCE, max_bytes=10**9)
    expected = worker.forward(1, rows, row_ids, expert_ids)
    assert same_bits(fallback.forward(1, rows, row_ids, expert_ids), expected)


def test_it_reads_an_expert_once_and_keeps_those_used_last_within_the_bound() -> None:
    read: list[tuple[int, int]] = []

    class Counting(RandomWeights):
        def expert(self, layer: int, expert: int) -> ExpertWeights:
            read.append((layer, expert))
            return super().expert(layer, expert)

    shard = empty()
    fallback = FallbackShard(shard, Counting(CONFIG, seed=11), max_bytes=2 * expert_bytes())
    compute(fallback, 0, [1, 2, 1])
    compute(fallback, 0, [1])
    compute(fallback, 0, [3])  # 2 is the one that was not used longest
    compute(fallback, 0, [1])
    assert read == [(0, 1), (0, 2), (0, 3)]
    assert shard.resident() == {(0, 1), (0, 3)}
    compute(fallback, 1, [0, 1, 2, 3, 4, 5, 6, 7])  # more than fit at once
    assert shard.resident() == {(1, 6), (1, 7)}
    assert shard.weight_bytes() <= 2 * expert_bytes()
    fallback.clear()
    assert (fallback.num_resident, shard.weight_bytes()) == (0, 0)


def test_a_bound_below_one_expert_is_told_as_a_failure() -> None:
    shard = empty()
    fallback = FallbackShard(shard, SOURCE, max_bytes=expert_bytes() - 1)
    rows = torch.ones(1, CONFIG.hidden_size, dtype=torch.bfloat16)
    request = request_of(FrameKey(1, 0, 0, 0, 0), rows, np.array([0]), np.array([5]))
    answer = answer_request(fallback, request, 0)
    assert isinstance(answer, ExpertFailure)
    assert f"fallback_bytes is {expert_bytes() - 1}" in answer.message
    assert shard.weight_bytes() == 0


def test_a_damaged_checkpoint_is_told_as_a_failure_and_the_next_request_can_succeed() -> None:
    class Damaged(RandomWeights):
        def expert(self, layer: int, expert: int) -> ExpertWeights:
            if expert == 5:
                raise CheckpointDamaged("model.safetensors", "experts.5", "too short")
            return super().expert(layer, expert)

    fallback = FallbackShard(empty(), Damaged(CONFIG, seed=11), max_bytes=10**9)
    rows = torch.ones(1, CONFIG.hidden_size, dtype=torch.bfloat16)
    answers = [
        answer_request(fallback, request_of(FrameKey(1, 0, 0, 0, 0), rows, np.array([0]), np.array([expert])), 0)
        for expert in (5, 6)
    ]
    assert isinstance(answers[0], ExpertFailure)
    assert "experts.5" in answers[0].message
    assert isinstance(answers[1], ExpertReply)
