"""ExpertHost: what an expert worker does, without the sockets: answers frames, takes and forgets experts, tells.

Any number of dispatchers may ask at once. One of them is computed for at a time, in the order of their asking; as each
waits for its answers before it asks again, none can crowd out another.
"""

import logging
import os
import threading
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from cluster.clock import MonotonicClock
from cluster.experts.fair_lock import FairLock
from cluster.experts.handshake import Agreement, new_incarnation
from cluster.experts.messages import ExpertFailure, ExpertReply, FrameFormat, answer_request
from cluster.experts.placement import ExpertKey, WorkerId
from cluster.experts.wire import decode_request, encode_answer
from model.checkpoint.weights import ExpertWeights
from model.device_errors import is_device_lost

logger = logging.getLogger(__name__)

LoadExpert = Callable[[int, int], ExpertWeights]
"""Reads one expert from the worker's own checkpoint, by layer and expert."""


class MovableShard(Protocol):
    """`model.expert_shard.ExpertShard`, as far as a worker uses it."""

    def put(self, layer: int, expert: int, weights: ExpertWeights) -> None:
        """Make an expert resident."""
        ...

    def drop(self, layer: int, expert: int) -> None:
        """Forget an expert."""
        ...

    def has(self, layer: int, expert: int) -> bool:
        """Say whether the expert is resident."""
        ...

    def resident(self) -> frozenset[ExpertKey]:
        """Return the resident experts."""
        ...

    def weight_bytes(self) -> int:
        """Return the bytes of the resident weights."""
        ...

    def forward(self, layer: int, rows: Tensor, row_ids: Tensor, expert_ids: Tensor) -> Tensor:
        """Return [P, H]: pair p is expert `expert_ids[p]` on rows[row_ids[p]]."""
        ...


@dataclass(frozen=True, slots=True)
class WorkerIdentity:
    """Who a worker is, and what it must agree on with a dispatcher."""

    worker_id: WorkerId
    agreement: Agreement
    device: str = "cpu"


@dataclass(frozen=True, slots=True)
class HostStatus:
    """A worker at one moment."""

    epoch: int
    resident: frozenset[ExpertKey]
    weight_bytes: int
    num_frames: int
    num_pairs: int
    busy_s: float


def end_process(reason: str) -> None:
    """End this process at once: streams break, other copies answer, and a new process gets the device afresh."""
    logger.critical("%s: this process ends", reason)
    logging.shutdown()
    os._exit(1)


class ExpertHost:
    """One worker's experts behind a lock. All methods may be called from any thread."""

    def __init__(
        self, shard: MovableShard, frame_format: FrameFormat, identity: WorkerIdentity, load_expert: LoadExpert
    ) -> None:
        """Serve `shard`, which nobody else touches from now on."""
        self.identity = identity
        self.frame_format = frame_format
        self.incarnation = new_incarnation()
        self.on_device_lost: Callable[[str], None] = end_process
        """Called with the reason when nothing more can be computed here; may be set until the server starts."""
        self._shard = shard
        self._load_expert = load_expert
        self._computing = FairLock()
        self._moving = threading.Lock()
        self._clock = MonotonicClock()
        self._epoch = 0
        self._num_frames = 0
        self._num_pairs = 0
        self._busy_s = 0.0

    def answer(self, frame: bytes) -> bytes:
        """Return the answer to a request's frame; raises FrameError if it is none."""
        request = decode_request(frame, self.frame_format)
        with self._computing, self._minding_the_device():
            started_s = self._clock.now_s()
            answer = answer_request(self._shard, request, self._epoch, self.identity.device)
            if isinstance(answer, ExpertReply) and answer.outputs.shape[0] != request.expert_ids.shape[0]:
                answer = ExpertFailure(request.key, self._epoch, f"the shard gave {answer.outputs.shape[0]} outputs")
            self._num_frames += 1
            self._num_pairs += request.expert_ids.shape[0]
            self._busy_s += self._clock.now_s() - started_s
        return encode_answer(answer, self.frame_format)

    def put(self, epoch: int, keys: Iterable[ExpertKey]) -> HostStatus:
        """Load those of `keys` that are absent, for the placement of `epoch`; raises CheckpointError or IndexError."""
        with self._moving:
            for layer, expert in keys:
                if not self._shard.has(layer, expert):
                    weights = self._load_expert(layer, expert)  # slow, so while others compute
                    with self._computing, self._minding_the_device():
                        self._shard.put(layer, expert, weights)
            self._epoch = max(self._epoch, epoch)
        return self.status()

    def drop(self, epoch: int, keys: Iterable[ExpertKey]) -> HostStatus:
        """Forget `keys`, by the placement of `epoch`; what is being computed is finished first."""
        with self._moving:
            for layer, expert in keys:
                with self._computing:
                    self._shard.drop(layer, expert)
            self._epoch = max(self._epoch, epoch)
        return self.status()

    def status(self) -> HostStatus:
        """Return what the worker holds and has done."""
        with self._computing:
            resident, weight_bytes = self._shard.resident(), self._shard.weight_bytes()
            return HostStatus(self._epoch, resident, weight_bytes, self._num_frames, self._num_pairs, self._busy_s)

    @contextmanager
    def _minding_the_device(self) -> Generator[None]:
        """Tell `on_device_lost` if that is what an error means; pass the error on."""
        try:
            yield
        except Exception as error:
            if is_device_lost(error):
                logger.critical("%s has lost its device", self.identity.worker_id, exc_info=True)
                self.on_device_lost(f"{self.identity.worker_id} has lost its device: {error}")
            raise
