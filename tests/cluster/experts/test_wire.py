"""Frames: what goes in comes out, and no bytes whatsoever do more than raise FrameError."""

import struct

import numpy as np
import pytest
import torch

from cluster.errors import FrameError
from cluster.experts.messages import (
    Answer,
    ExpertFailure,
    ExpertLacks,
    ExpertReply,
    ExpertRequest,
    FrameFormat,
    FrameKey,
    byte_rows,
    tensor_rows,
)
from cluster.experts.wire import (
    HEADER_BYTES,
    decode_answer,
    decode_request,
    encode_answer,
    encode_request,
    max_frame_bytes,
)
from tests.cluster.experts.hand import request_of

KEY = FrameKey(incarnation=2**64 - 1, step=2**40, layer=2, micro_batch=1, send=7)
DTYPES = (torch.float32, torch.bfloat16)


def format_of(dtype: torch.dtype = torch.bfloat16) -> FrameFormat:
    return FrameFormat(3, 8, 4, 6, dtype, dtype, max_rows=5)


def request(dtype: torch.dtype = torch.bfloat16) -> ExpertRequest:
    return request_of(KEY, torch.randn(2, 6).to(dtype), np.array([0, 0, 1]), np.array([7, 0, 3]), epoch=9)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_request_arrives_as_it_was_sent(dtype: torch.dtype) -> None:
    sent = request(dtype)
    got = decode_request(encode_request(sent), format_of(dtype))
    assert (got.key, got.epoch) == (KEY, 9)
    assert got.dtype == dtype
    assert got.rows.tolist() == sent.rows.tolist()
    assert got.pair_rows.tolist() == [0, 0, 1]
    assert got.expert_ids.tolist() == [7, 0, 3]


def test_rows_that_are_a_view_arrive_too() -> None:
    rows = torch.randn(4, 6).bfloat16()[::2]
    got = decode_request(encode_request(request_of(KEY, rows, np.arange(2), np.arange(2))), format_of())
    assert torch.equal(tensor_rows(got.rows, got.dtype), rows)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_reply_arrives_as_it_was_sent_without_a_copy(dtype: torch.dtype) -> None:
    outputs = torch.randn(3, 6).to(dtype)
    frame = encode_answer(ExpertReply(KEY, 4, byte_rows(outputs)), format_of(dtype))
    got = decode_answer(frame, format_of(dtype))
    assert isinstance(got, ExpertReply)
    assert (got.key, got.epoch) == (KEY, 4)
    assert got.outputs.tobytes() == byte_rows(outputs).tobytes()
    assert not got.outputs.flags.owndata


def test_lacks_and_failures_arrive_as_they_were_sent() -> None:
    lacks = decode_answer(encode_answer(ExpertLacks(KEY, 4, np.array([1, 7])), format_of()), format_of())
    assert isinstance(lacks, ExpertLacks)
    assert (lacks.key, lacks.epoch, lacks.expert_ids.tolist()) == (KEY, 4, [1, 7])
    failure = ExpertFailure(KEY, 4, "out of memory — 3 GB wanted")
    assert decode_answer(encode_answer(failure, format_of()), format_of()) == failure


def test_a_long_failure_is_cut_not_refused() -> None:
    frame = encode_answer(ExpertFailure(KEY, 4, "ä" * 100_000), format_of())
    assert len(frame) <= max_frame_bytes(format_of())
    assert isinstance(decode_answer(frame, format_of()), ExpertFailure)


def test_the_largest_frames_fit_the_limit_exactly() -> None:
    wire = format_of(torch.float32)
    rows, pairs = wire.max_rows, wire.max_pairs
    largest = request_of(KEY, torch.zeros(rows, 6), np.arange(pairs) % rows, np.arange(pairs) % 8)
    reply = ExpertReply(KEY, 0, np.zeros((pairs, 24), dtype=np.uint8))
    assert decode_request(encode_request(largest), wire).rows.shape == (rows, 24)
    assert max(len(encode_request(largest)), len(encode_answer(reply, wire))) <= max_frame_bytes(wire)


FIELDS = {
    "magic": (0, "<4s", b"HTTP"),
    "version": (4, "<B", 99),
    "kind": (5, "<B", 2),
    "dtype": (6, "<B", 1),
    "layer": (40, "<I", 3),
    "number of rows": (48, "<I", 6),
    "number of pairs": (52, "<I", 9),
    "hidden size": (56, "<I", 8),
}


@pytest.mark.parametrize("name", FIELDS)
def test_a_wrong_field_is_named_with_its_value(name: str) -> None:
    offset, code, value = FIELDS[name]
    frame = bytearray(encode_request(request()))
    struct.pack_into(code, frame, offset, value)
    with pytest.raises(FrameError, match=f"{name} is {value!r}, expected"):
        decode_request(bytes(frame), format_of())


def test_pairs_outside_the_rows_or_the_experts_are_refused() -> None:
    for changed, message in ((0, f"a pair's row in a frame is {2**64 - 1}"), (3, "a pair's expert in a frame is")):
        frame = bytearray(encode_request(request()))
        struct.pack_into("<q", frame, HEADER_BYTES + 8 * changed, -1)
        with pytest.raises(FrameError, match=message):
            decode_request(bytes(frame), format_of())


def test_every_truncation_and_every_extension_is_refused() -> None:
    wire = format_of()
    frames = [encode_request(request()), *(encode_answer(answer, wire) for answer in answers())]
    for index, frame in enumerate(frames):
        decode = decode_request if index == 0 else decode_answer
        for length in range(len(frame)):
            with pytest.raises(FrameError):
                decode(frame[:length], wire)
        with pytest.raises(FrameError, match="length"):
            decode(frame + b"\0", wire)


def answers() -> list[Answer]:
    outputs = np.zeros((3, 12), dtype=np.uint8)
    return [ExpertReply(KEY, 4, outputs), ExpertLacks(KEY, 4, np.array([1])), ExpertFailure(KEY, 4, "no")]


@pytest.mark.parametrize("seed", range(20))
def test_bytes_changed_at_random_are_refused_or_still_within_all_limits(seed: int) -> None:
    rng = np.random.default_rng(seed)
    wire = format_of()
    for frame in (encode_request(request()), *(encode_answer(answer, wire) for answer in answers())):
        for _ in range(50):
            changed = bytearray(frame)
            for offset in rng.integers(0, len(frame), rng.integers(1, 8)):
                changed[offset] = rng.integers(0, 256)
            hold_to_limits(bytes(changed), wire)


def hold_to_limits(frame: bytes, wire: FrameFormat) -> None:
    """Decode both ways; what is accepted must be safe to use as indices."""
    try:
        got = decode_request(frame, wire)
    except FrameError:
        pass
    else:
        assert 0 <= got.key.layer < wire.num_layers
        assert got.pair_rows.max() < got.rows.shape[0]
        assert got.expert_ids.max() < wire.num_experts
    try:
        answer = decode_answer(frame, wire)
    except FrameError:
        return
    assert 0 <= answer.key.layer < wire.num_layers
