"""What a dispatcher asks of a worker and what a worker answers, as values; `wire` turns them into bytes."""

from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cluster.experts.placement import IntArray
from model.config import ModelConfig
from model.device_errors import is_device_lost
from model.errors import CheckpointError
from model.numerics import Numerics

ByteRows: TypeAlias = npt.NDArray[np.uint8]
"""Rows of a tensor as their bytes: numpy knows no bf16."""


@dataclass(frozen=True, slots=True)
class FrameFormat:
    """What both ends of a stream know beforehand, and hold every frame to."""

    num_layers: int
    num_experts: int
    experts_per_token: int
    hidden_size: int
    input_dtype: torch.dtype
    output_dtype: torch.dtype
    max_rows: int
    """Rows of one step, and so of one frame."""

    @classmethod
    def of(cls, config: ModelConfig, numerics: Numerics, max_rows: int) -> "FrameFormat":
        """Return the format of a model in a numerics mode, for steps of at most `max_rows` rows."""
        return cls(
            config.num_layers,
            config.num_experts,
            config.experts_per_token,
            config.hidden_size,
            numerics.expert_input,
            numerics.expert_output,
            max_rows,
        )

    @property
    def max_pairs(self) -> int:
        """Return the most (row, expert) pairs of one frame."""
        return self.max_rows * self.experts_per_token


@dataclass(frozen=True, slots=True)
class FrameKey:
    """What an answer must match to count: it tells late, repeated and foreign answers apart (fencing)."""

    incarnation: int
    """Random 64-bit number of the dispatcher's process."""
    step: int
    layer: int
    micro_batch: int
    send: int
    """Number of the send; no two sends of an incarnation share one."""


@dataclass(frozen=True, slots=True)
class ExpertRequest:
    """R rows for one worker and one layer, and P pairs: which expert is to run on which row."""

    key: FrameKey
    epoch: int
    """Of the placement that the dispatcher sends by."""
    dtype: torch.dtype
    """The expert input dtype."""
    rows: ByteRows
    """[R, H * itemsize]."""
    pair_rows: IntArray
    """[P] indices into rows."""
    expert_ids: IntArray
    """[P]."""


@dataclass(frozen=True, slots=True)
class ExpertReply:
    """The outputs of all pairs of a request, in its order."""

    key: FrameKey
    epoch: int
    """Newest epoch that the worker was told."""
    outputs: ByteRows
    """[P, H * itemsize]: rows of the expert output dtype."""


@dataclass(frozen=True, slots=True)
class ExpertLacks:
    """Nothing was computed: the worker does not hold some of the experts."""

    key: FrameKey
    epoch: int
    expert_ids: IntArray
    """The absent ones."""


@dataclass(frozen=True, slots=True)
class ExpertFailure:
    """Nothing was computed: the worker's device or its memory failed."""

    key: FrameKey
    epoch: int
    message: str


Answer: TypeAlias = ExpertReply | ExpertLacks | ExpertFailure


class Shard(Protocol):
    """The part of `model.expert_shard.ExpertShard` that answers requests."""

    def has(self, layer: int, expert: int) -> bool:
        """Say whether the expert is resident."""
        ...

    def forward(self, layer: int, rows: Tensor, row_ids: Tensor, expert_ids: Tensor) -> Tensor:
        """Return [P, H] in the expert output dtype: pair p is expert `expert_ids[p]` on rows[row_ids[p]]."""
        ...


def byte_rows(rows: Tensor) -> ByteRows:
    """Return a view of contiguous host rows [R, H] as bytes [R, H * itemsize]."""
    return rows.view(torch.uint8).numpy()


def tensor_rows(rows: ByteRows, dtype: torch.dtype) -> Tensor:
    """Return a view of rows as bytes [R, H * itemsize], which can be written to, as [R, H]."""
    return torch.from_numpy(rows).view(dtype)


def answer_request(shard: Shard, request: ExpertRequest, epoch: int, device: str = "cpu") -> Answer:
    """Return what `shard`, resident on `device`, answers to `request`; this is the worker's whole work.

    Raises RuntimeError only if the device is lost for good.
    """
    layer = request.key.layer
    absent = [expert for expert in set(request.expert_ids.tolist()) if not shard.has(layer, expert)]
    if absent:
        return ExpertLacks(request.key, epoch, np.array(sorted(absent), dtype=np.int64))
    inputs = (
        tensor_rows(request.rows, request.dtype),
        torch.from_numpy(request.pair_rows),
        torch.from_numpy(request.expert_ids),
    )
    try:
        if device != "cpu":
            inputs = tuple(tensor.to(device) for tensor in inputs)
        with torch.inference_mode():
            outputs = shard.forward(layer, *inputs).cpu().contiguous()
    except (
        RuntimeError,
        MemoryError,
        CheckpointError,
    ) as error:  # torch raises RuntimeError for whatever befalls a device
        if is_device_lost(error):
            raise
        return ExpertFailure(request.key, epoch, f"layer {layer}, {len(request.expert_ids)} pairs: {error}")
    return ExpertReply(request.key, epoch, byte_rows(outputs))
