"""A worker without its sockets: what becomes of it when its device fails."""

import numpy as np
import pytest
import torch

from cluster.experts.messages import ExpertFailure, FrameKey
from cluster.experts.wire import decode_answer, encode_request
from tests.cluster.experts.hand import HandShard, frame_format, hand_host, request_of

WIRE = frame_format()
FRAME = encode_request(request_of(FrameKey(0, 0, 0, 0, 0), torch.ones(1, 4), np.array([0]), np.array([3])))


def failing(message: str) -> HandShard:
    return HandShard({(0, expert) for expert in range(8)}, failure=message)


def test_a_failed_computation_is_an_answer() -> None:
    answer = decode_answer(hand_host("worker-0", failing("out of memory"), WIRE).answer(FRAME), WIRE)
    assert isinstance(answer, ExpertFailure)
    assert "out of memory" in answer.message


def test_a_lost_device_ends_the_worker() -> None:
    host = hand_host("worker-0", failing("CUDA error: device-side assert triggered"), WIRE)
    ended: list[bool] = []
    host.on_device_lost = lambda: ended.append(True)
    with pytest.raises(RuntimeError, match="device-side assert"):
        host.answer(FRAME)
    assert ended == [True]
