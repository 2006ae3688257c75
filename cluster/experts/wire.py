"""The frames of an expert stream: a fixed header, then bytes as they lie in memory. Neither protobuf nor pickle.

    request   header | pairs [2, P] uint32: rows, experts | rows [R, H]
    reply     header | outputs [P, H]
    lacks     header | expert ids [P] uint32
    failure   header | text of P bytes, UTF-8

All numbers are little-endian, tensors in the dtype that the header names. A frame is held to the format that both
ends agreed on, and to its own length, before anything else looks at it.
"""

import struct
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

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
)
from cluster.experts.placement import IntArray

PROTOCOL = 1
"""Version of the frames and of the service around them."""
_MAGIC = b"EXPM"
_HEADER = struct.Struct("<4sBBBxQQQQIIIII8x")
HEADER_BYTES = _HEADER.size
_REQUEST, _REPLY, _LACKS, _FAILURE = 1, 2, 3, 4
_DTYPES = {torch.float32: 1, torch.bfloat16: 2}
_MAX_TEXT_BYTES = 2000
_PAIR = np.dtype("<u4")


class _Header(NamedTuple):
    magic: bytes
    version: int
    kind: int
    dtype: int
    incarnation: int
    step: int
    send: int
    epoch: int
    layer: int
    micro_batch: int
    num_rows: int
    num_pairs: int
    hidden_size: int

    @property
    def key(self) -> FrameKey:
        return FrameKey(self.incarnation, self.step, self.layer, self.micro_batch, self.send)


def max_frame_bytes(frame_format: FrameFormat) -> int:
    """Return the size of the largest frame either way."""
    hidden, pairs = frame_format.hidden_size, frame_format.max_pairs
    request = pairs * 2 * _PAIR.itemsize + frame_format.max_rows * hidden * frame_format.input_dtype.itemsize
    reply = pairs * hidden * frame_format.output_dtype.itemsize
    return HEADER_BYTES + max(request, reply, _MAX_TEXT_BYTES)


def encode_request(request: ExpertRequest) -> bytes:
    """Return the frame of `request`."""
    rows = request.rows.contiguous()
    pairs = np.stack((request.pair_rows, request.expert_ids)).astype(_PAIR)
    shape = (rows.shape[0], pairs.shape[1], rows.shape[1])
    header = _header(_REQUEST, _DTYPES[rows.dtype], request.key, request.epoch, shape)
    return b"".join((header, pairs.data, byte_rows(rows).data))


def encode_answer(answer: Answer, frame_format: FrameFormat) -> bytes:
    """Return the frame of `answer`."""
    if isinstance(answer, ExpertReply):
        kind, body, num_pairs = _REPLY, answer.outputs.data, answer.outputs.shape[0]
    elif isinstance(answer, ExpertLacks):
        kind, body, num_pairs = _LACKS, answer.expert_ids.astype(_PAIR).data, answer.expert_ids.shape[0]
    else:
        kind, body = _FAILURE, answer.message.encode()[:_MAX_TEXT_BYTES]
        num_pairs = len(body)
    shape = (0, num_pairs, frame_format.hidden_size)
    return b"".join((_header(kind, _DTYPES[frame_format.output_dtype], answer.key, answer.epoch, shape), body))


def decode_request(frame: bytes, frame_format: FrameFormat) -> ExpertRequest:
    """Return the request that a worker received; raises FrameError naming what is wrong with which value."""
    header = _open(frame, frame_format, frame_format.input_dtype)
    _check_equal("kind", header.kind, _REQUEST)
    num_rows, num_pairs = header.num_rows, header.num_pairs
    _check_between("number of rows", num_rows, 1, frame_format.max_rows)
    _check_between("number of pairs", num_pairs, num_rows, num_rows * frame_format.experts_per_token)
    row_bytes = frame_format.hidden_size * frame_format.input_dtype.itemsize
    rows_at = HEADER_BYTES + num_pairs * 2 * _PAIR.itemsize
    _check_equal("length", len(frame), rows_at + num_rows * row_bytes)
    pairs = np.frombuffer(frame, _PAIR, 2 * num_pairs, HEADER_BYTES).reshape(2, num_pairs).astype(np.int64)
    _check_below(pairs[0], num_rows, "a pair's row")
    _check_below(pairs[1], frame_format.num_experts, "a pair's expert")
    rows = _rows(frame, rows_at, num_rows, frame_format)
    return ExpertRequest(header.key, header.epoch, rows, pairs[0], pairs[1])


def decode_answer(frame: bytes, frame_format: FrameFormat) -> Answer:
    """Return the answer that a dispatcher received; raises FrameError naming what is wrong with which value.

    A reply's outputs are a view of `frame`.
    """
    header = _open(frame, frame_format, frame_format.output_dtype)
    num_pairs = header.num_pairs
    _check_equal("number of rows", header.num_rows, 0)
    if header.kind == _FAILURE:
        _check_equal("length", len(frame), HEADER_BYTES + num_pairs)
        return ExpertFailure(header.key, header.epoch, frame[HEADER_BYTES:].decode(errors="replace"))
    _check_between("number of pairs", num_pairs, 1, frame_format.max_pairs)
    if header.kind == _LACKS:
        _check_equal("length", len(frame), HEADER_BYTES + num_pairs * _PAIR.itemsize)
        expert_ids = np.frombuffer(frame, _PAIR, num_pairs, HEADER_BYTES).astype(np.int64)
        _check_below(expert_ids, frame_format.num_experts, "an absent expert")
        return ExpertLacks(header.key, header.epoch, expert_ids)
    _check_equal("kind", header.kind, _REPLY)
    row_bytes = frame_format.hidden_size * frame_format.output_dtype.itemsize
    _check_equal("length", len(frame), HEADER_BYTES + num_pairs * row_bytes)
    outputs = np.frombuffer(frame, np.uint8, offset=HEADER_BYTES).reshape(num_pairs, row_bytes)
    return ExpertReply(header.key, header.epoch, outputs)


def _header(kind: int, dtype: int, key: FrameKey, epoch: int, shape: tuple[int, int, int]) -> bytes:
    identity = (key.incarnation, key.step, key.send, epoch, key.layer, key.micro_batch)
    return _HEADER.pack(_MAGIC, PROTOCOL, kind, dtype, *identity, *shape)


def _open(frame: bytes, frame_format: FrameFormat, dtype: torch.dtype) -> _Header:
    if len(frame) < HEADER_BYTES:
        raise FrameError(f"a frame of {len(frame)} bytes is shorter than a header, {HEADER_BYTES}")
    header = _Header._make(_HEADER.unpack_from(frame))
    _check_equal("magic", header.magic, _MAGIC)
    _check_equal("version", header.version, PROTOCOL)
    _check_equal("dtype", header.dtype, _DTYPES[dtype])
    _check_equal("hidden size", header.hidden_size, frame_format.hidden_size)
    _check_between("layer", header.layer, 0, frame_format.num_layers - 1)
    return header


def _rows(frame: bytes, offset: int, num_rows: int, frame_format: FrameFormat) -> Tensor:
    """Copy the rows out of a frame: a tensor over the frame itself could be written to and might be misaligned."""
    rows = torch.empty((num_rows, frame_format.hidden_size), dtype=frame_format.input_dtype)
    flat = byte_rows(rows)
    flat[:] = np.frombuffer(frame, np.uint8, offset=offset).reshape(flat.shape)
    return rows


def _check_equal(name: str, value: object, expected: object) -> None:
    if value != expected:
        raise FrameError(f"a frame's {name} is {value!r}, expected {expected!r}")


def _check_between(name: str, value: int, lowest: int, highest: int) -> None:
    if not lowest <= value <= highest:
        raise FrameError(f"a frame's {name} is {value}, expected {lowest} to {highest}")


def _check_below(values: IntArray, bound: int, name: str) -> None:
    if values.max() >= bound:
        raise FrameError(f"{name} in a frame is {values.max()}, expected 0..{bound - 1}")
