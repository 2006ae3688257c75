"""The frames of an expert stream: a fixed header, then bytes as they lie in memory. Neither protobuf nor pickle.

    request   header | row of each pair [P] int64 | expert of each pair [P] int64 | rows [R, H]
    reply     header | outputs [P, H]
    lacks     header | expert ids [P] int64
    failure   header | text of P bytes, UTF-8

All numbers are little-endian, tensors in the dtype that the header names. A frame is held to the format that both
ends agreed on, and to its own length, before anything else looks at it.
"""

import struct
from typing import NamedTuple

import numpy as np
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
)

PROTOCOL = 1
"""Version of the frames and of the service around them."""
_MAGIC = b"EXPM"
_HEADER = struct.Struct("<4sBBBxQQQQIIIII8x")
HEADER_BYTES = _HEADER.size
_REQUEST, _REPLY, _LACKS, _FAILURE = 1, 2, 3, 4
_DTYPES = {torch.float32: 1, torch.bfloat16: 2}
_MAX_TEXT_BYTES = 2000
_INDEX = np.dtype("<i8")


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
    request = pairs * 2 * _INDEX.itemsize + frame_format.max_rows * hidden * frame_format.input_dtype.itemsize
    reply = pairs * hidden * frame_format.output_dtype.itemsize
    return HEADER_BYTES + max(request, reply, _MAX_TEXT_BYTES)


def encode_request(request: ExpertRequest) -> bytes:
    """Return the frame of `request`."""
    num_rows, row_bytes = request.rows.shape
    shape = (num_rows, request.expert_ids.shape[0], row_bytes // request.dtype.itemsize)
    header = _header(_REQUEST, _DTYPES[request.dtype], request.key, request.epoch, shape)
    return b"".join((header, request.pair_rows.data, request.expert_ids.data, request.rows.data))


def encode_answer(answer: Answer, frame_format: FrameFormat) -> bytes:
    """Return the frame of `answer`."""
    if isinstance(answer, ExpertReply):
        kind, body, num_pairs = _REPLY, answer.outputs.data, answer.outputs.shape[0]
    elif isinstance(answer, ExpertLacks):
        kind, body, num_pairs = _LACKS, answer.expert_ids.data, answer.expert_ids.shape[0]
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
    experts_at = HEADER_BYTES + num_pairs * _INDEX.itemsize
    rows_at = experts_at + num_pairs * _INDEX.itemsize
    _check_equal("length", len(frame), rows_at + num_rows * row_bytes)
    _check_below(frame, HEADER_BYTES, experts_at, num_rows, "a pair's row")
    _check_below(frame, experts_at, rows_at, frame_format.num_experts, "a pair's expert")
    body = bytearray(frame)  # tensors must lie in memory that could be written to
    pair_rows = np.frombuffer(body, _INDEX, num_pairs, HEADER_BYTES)
    expert_ids = np.frombuffer(body, _INDEX, num_pairs, experts_at)
    rows = np.frombuffer(body, np.uint8, offset=rows_at).reshape(num_rows, row_bytes)
    return ExpertRequest(header.key, header.epoch, frame_format.input_dtype, rows, pair_rows, expert_ids)


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
        _check_equal("length", len(frame), HEADER_BYTES + num_pairs * _INDEX.itemsize)
        _check_below(frame, HEADER_BYTES, len(frame), frame_format.num_experts, "an absent expert")
        return ExpertLacks(header.key, header.epoch, np.frombuffer(frame, _INDEX, num_pairs, HEADER_BYTES))
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


def _check_equal(name: str, value: object, expected: object) -> None:
    if value != expected:
        raise FrameError(f"a frame's {name} is {value!r}, expected {expected!r}")


def _check_between(name: str, value: int, lowest: int, highest: int) -> None:
    if not lowest <= value <= highest:
        raise FrameError(f"a frame's {name} is {value}, expected {lowest} to {highest}")


def _check_below(frame: bytes, start: int, end: int, bound: int, name: str) -> None:
    """Hold the indices between two places to 0 .. bound - 1; read as unsigned, negative ones are too large as well.

    Between messages everything has left the processor's caches, and the interpreter returns to them before numpy does.
    """
    largest = max(memoryview(frame)[start:end].cast("Q"))
    if largest >= bound:
        raise FrameError(f"{name} in a frame is {largest}, expected 0 to {bound - 1}")
