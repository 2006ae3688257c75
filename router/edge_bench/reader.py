"""A client as cheap as Python allows, in a process of its own: raw sockets, one selector, nothing parsed while it runs.

`python -m router.edge_bench.reader` reads a Task as JSON from its input and writes a Report to its output. A stream
sends its next request when the last answer is whole, over the same connection.
"""

import json
import resource
import selectors
import socket
import sys
import time
from bisect import bisect_left, bisect_right
from dataclasses import asdict, dataclass, field
from itertools import accumulate
from typing import Any

TIMEOUT_S = 600.0
_PIECE_BYTES = 1 << 16
_END = b"\r\n0\r\n\r\n"
"""Of a body that comes in chunks."""
_STATUS = b"HTTP/1.1 200 "


@dataclass(frozen=True, slots=True)
class Task:
    """What to ask: for each stream its requests' bodies, as text."""

    host: str
    port: int
    path: str
    streams: list[list[str]]


@dataclass(slots=True)
class Read:
    """One answer. Times are of the monotonic clock, which all processes of a machine share."""

    sent_s: float
    arrivals_s: list[float]
    """When each event that carries something came; the end mark is none."""
    text: str
    """Reasoning and content, in the order in which they came."""


@dataclass(slots=True)
class Report:
    """All answers, in the order of the task, and the processor time that reading them took."""

    answers: list[list[Read]]
    cpu_s: float


@dataclass(slots=True)
class _Answer:
    """An answer on its way."""

    sent_s: float
    times_s: list[float] = field(default_factory=list[float])
    pieces: list[bytes] = field(default_factory=list[bytes])
    tail: bytes = b""

    def take(self, piece: bytes) -> bool:
        """Keep a piece; return whether it is the last. Raises ValueError for the first piece of a refusal."""
        if not self.pieces and not piece.startswith(_STATUS):
            raise ValueError(f"the server answered {piece[:500]!r}")
        self.times_s.append(time.monotonic())
        self.pieces.append(piece)
        self.tail = (self.tail + piece)[-len(_END) :]
        return self.tail == _END


class _Stream:
    """One connection and what it asks."""

    def __init__(self, task: Task, bodies: list[str]) -> None:
        """Connect."""
        self._socket = socket.create_connection((task.host, task.port), TIMEOUT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._requests = [_request(task, body.encode()) for body in bodies]
        self.answers: list[_Answer] = []

    def fileno(self) -> int:
        """Return the socket's, for the selector."""
        return self._socket.fileno()

    def ask(self) -> bool:
        """Send the next request; return False if there is none."""
        if len(self.answers) == len(self._requests):
            return False
        request = self._requests[len(self.answers)]
        self.answers.append(_Answer(time.monotonic()))
        self._socket.sendall(request)
        return True

    def read(self) -> bool:
        """Take what has come; return whether the answer is whole."""
        piece = self._socket.recv(_PIECE_BYTES)
        if not piece:
            raise ConnectionError(f"the server closed a stream after {b''.join(self.answers[-1].pieces)[-300:]!r}")
        return self.answers[-1].take(piece)

    def close(self) -> None:
        """Let go of the connection."""
        self._socket.close()


def read_all(task: Task) -> Report:
    """Ask everything and return what came; raises OSError or ValueError for an answer that is no stream."""
    streams = [_Stream(task, bodies) for bodies in task.streams]
    try:
        began_s = _cpu_s()
        _ask_all(streams)
        cpu_s = _cpu_s() - began_s
    finally:
        for stream in streams:
            stream.close()
    return Report([[_parsed(answer) for answer in stream.answers] for stream in streams], cpu_s)


def _ask_all(streams: list[_Stream]) -> None:
    with selectors.DefaultSelector() as selector:
        for stream in streams:
            selector.register(stream, selectors.EVENT_READ, stream)
        num_open = sum(stream.ask() for stream in streams)
        while num_open:
            ready = selector.select(TIMEOUT_S)
            if not ready:
                raise TimeoutError(f"nothing came for {TIMEOUT_S:g} s")
            for key, _ in ready:
                stream: _Stream = key.data
                if stream.read() and not stream.ask():
                    selector.unregister(stream)
                    num_open -= 1


def _cpu_s() -> float:
    """Return this process' time in user and system mode."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _request(task: Task, body: bytes) -> bytes:
    head = (
        f"POST {task.path} HTTP/1.1\r\nhost: {task.host}:{task.port}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def _parsed(answer: _Answer) -> Read:
    """Return an answer's events, each with the time of the piece that completed it; raises ValueError."""
    raw = b"".join(answer.pieces)
    body, places = _dechunked(raw, raw.index(b"\r\n\r\n") + 4)
    ends = list(accumulate(map(len, answer.pieces)))
    arrivals_s: list[float] = []
    texts: list[str] = []
    at = 0
    for data in body.split(b"\n\n"):
        at += len(data) + 2
        event = _event(data)
        if event is not None:
            arrivals_s.append(answer.times_s[bisect_left(ends, _raw_place(places, at))])
            texts.append(_text_of(event))
    return Read(answer.sent_s, arrivals_s, "".join(texts))


def _dechunked(raw: bytes, at: int) -> tuple[bytes, list[tuple[int, int]]]:
    """Return a chunked body that begins at `at`, and for each chunk where it begins in the body and in `raw`."""
    parts: list[bytes] = []
    places: list[tuple[int, int]] = []
    num_bytes = 0
    while at < len(raw):
        line_end = raw.index(b"\r\n", at)
        size = int(raw[at:line_end], 16)
        places.append((num_bytes, line_end + 2))
        parts.append(raw[line_end + 2 : line_end + 2 + size])
        num_bytes += size
        at = line_end + 2 + size + 2
    return b"".join(parts), places


def _raw_place(places: list[tuple[int, int]], end: int) -> int:
    """Return how many raw bytes are there when the body's first `end` bytes are."""
    body_start, raw_start = places[bisect_right(places, (end - 1, sys.maxsize)) - 1]
    return raw_start + end - body_start


def _event(data: bytes) -> dict[str, Any] | None:
    """Return what an event says; None of a comment and of the end mark."""
    if not data.startswith(b"data: {"):
        return None
    event: dict[str, Any] = json.loads(data[6:])
    if "error" in event:
        raise ValueError(f"the stream failed: {event['error']}")
    return event


def _text_of(event: dict[str, Any]) -> str:
    message = event["choices"][0]["delta"]
    return (message.get("reasoning") or "") + (message.get("content") or "")


if __name__ == "__main__":
    report = read_all(Task(**json.load(sys.stdin)))
    json.dump(asdict(report), sys.stdout)
