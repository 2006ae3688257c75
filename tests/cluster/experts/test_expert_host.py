"""A worker without its sockets: what becomes of it when its device fails."""

import numpy as np
import pytest
import torch
from torch import Tensor

from cluster.experts.client import GrpcExpertTransport
from cluster.experts.dispatch_events import Answered, StreamBroken, StreamOpened
from cluster.experts.messages import ExpertFailure, FrameKey
from cluster.experts.server import ExpertServer, ServerOptions
from cluster.experts.wire import decode_answer, encode_request
from model.checkpoint.weights import ExpertWeights
from tests.cluster.experts.hand import SECRET, HandShard, frame_format, hand_host, request_of
from tests.cluster.experts.served import Events, client_options

WIRE = frame_format()
FRAME = encode_request(request_of(FrameKey(0, 0, 0, 0, 0), torch.ones(1, 4), np.array([0]), np.array([3])))


class LostShard(HandShard):
    """A shard on a device whose context is broken."""

    def put(self, layer: int, expert: int, weights: ExpertWeights) -> None:
        raise device_lost()

    def forward(self, layer: int, rows: Tensor, row_ids: Tensor, expert_ids: Tensor) -> Tensor:
        raise device_lost()


def device_lost() -> Exception:
    """Return what torch raises for every call after a kernel broke the context."""
    return torch.AcceleratorError("device-side assert triggered")


def failing(message: str) -> HandShard:
    return HandShard({(0, expert) for expert in range(8)}, failure=message)


def test_a_failed_computation_is_an_answer() -> None:
    answer = decode_answer(hand_host("worker-0", failing("out of memory"), WIRE).answer(FRAME), WIRE)
    assert isinstance(answer, ExpertFailure)
    assert "out of memory" in answer.message


def test_a_lost_device_ends_the_worker() -> None:
    host = hand_host("worker-0", failing("CUDA error: device-side assert triggered"), WIRE)
    reasons: list[str] = []
    host.on_device_lost = reasons.append
    with pytest.raises(RuntimeError, match="device-side assert"):
        host.answer(FRAME)
    assert reasons == ["worker-0 has lost its device: CUDA error: device-side assert triggered"]


@pytest.mark.skipif(not hasattr(torch, "AcceleratorError"), reason="this torch has no class for it")
def test_a_device_that_is_lost_while_an_expert_is_moved_ends_the_worker_too() -> None:
    host = hand_host("worker-0", LostShard(), WIRE)
    reasons: list[str] = []
    host.on_device_lost = reasons.append
    with pytest.raises(RuntimeError):
        host.put(1, [(0, 0)])
    assert reasons == ["worker-0 has lost its device: device-side assert triggered"]


@pytest.mark.skipif(not hasattr(torch, "AcceleratorError"), reason="this torch has no class for it")
def test_a_stream_is_broken_by_a_lost_device_so_that_another_copy_answers() -> None:
    host = hand_host("worker-0", LostShard({(0, expert) for expert in range(8)}), WIRE)
    reasons: list[str] = []
    host.on_device_lost = reasons.append
    server = ExpertServer(host, ServerOptions(SECRET))
    events = Events()
    transport = GrpcExpertTransport(WIRE, client_options(), {"worker-0": f"127.0.0.1:{server.start()}"})
    try:
        transport.start(events)
        events.first(StreamOpened)
        transport.send("worker-0", request_of(FrameKey(0, 0, 0, 0, 0), torch.ones(1, 4), np.array([0]), np.array([3])))
        events.first(StreamBroken)
        assert not events.of(Answered)
        assert reasons == ["worker-0 has lost its device: device-side assert triggered"]
    finally:
        transport.close()
        server.stop()
