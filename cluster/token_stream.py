"""The token stream over gRPC: one bidirectional stream for each pair of edge and attention replica.

The server lives beside an engine and sends each edge one message a step; it has threads of its own, so that a busy
event loop of the replica delays nobody. The client lives in an edge and hands what it reads to a sink. Silence on
either side for the timeout breaks the stream. `token_routes` decides what goes where, `token_wire` how it looks.
"""

import hmac
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import grpc

from cluster.clock import Clock, MonotonicClock
from cluster.engine.sequence import TokenEvent
from cluster.errors import EngineStopped, HandshakeRefused
from cluster.token_outbox import TokenOutbox
from cluster.token_routes import TokenRoutes
from cluster.token_wire import PROTOCOL, decode_step, encode_step
from protos import engine_pb2 as pb
from protos import engine_pb2_grpc as rpc

SECRET_KEY = "expertmesh-secret"
"""Metadata key of the cluster's secret."""
MAX_MESSAGE_BYTES = 16_000_000
MAX_MERGED_STEPS = 64
"""Steps that a late edge gets in one message."""
_CHANNEL_OPTIONS = [
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """Limits of the token streams of one process."""

    timeout_s: float = 10.0
    """Silence that breaks a stream, and absence after which an edge's sequences are aborted."""
    max_edges: int = 64
    max_queued_steps: int = 1024
    """Steps kept for an edge that reads too slowly; beyond it, its stream is broken."""

    @property
    def heartbeat_interval_s(self) -> float:
        """Return how often each side speaks at least."""
        return self.timeout_s / 4


@dataclass(frozen=True, slots=True)
class ReplicaIdentity:
    """What an engine tells an edge about itself."""

    replica_id: str
    fingerprint: str


@dataclass(slots=True)
class _Pulse:
    """When an edge was last heard."""

    heard_at_s: float


class TokenStreamServer(rpc.TokenStreamServicer):
    """Serves the events of one engine to the edges that opened its sequences."""

    def __init__(
        self,
        identity: ReplicaIdentity,
        secret: str,
        limits: StreamLimits,
        on_lost: Callable[[list[str]], None],
        clock: Clock | None = None,
    ) -> None:
        """Call `on_lost` from a thread of the server with sequences whose edge is gone for good."""
        self._identity = identity
        self._secret = secret.encode()
        self._limits = limits
        self._on_lost = on_lost
        self._clock = clock or MonotonicClock()
        self._lock = threading.Lock()
        self._routes = TokenRoutes(limits.timeout_s)
        self._outboxes: dict[int, TokenOutbox] = {}
        self._is_stopped = threading.Event()
        self._expiry = threading.Thread(target=self._expire_loop, name="token-stream-expiry", daemon=True)
        options = [("grpc.so_reuseport", 0), *_CHANNEL_OPTIONS]
        pool = ThreadPoolExecutor(limits.max_edges, thread_name_prefix="token-stream")
        self._server = grpc.server(pool, options=options, maximum_concurrent_rpcs=limits.max_edges)
        rpc.add_TokenStreamServicer_to_server(self, self._server)

    def start(self, host: str) -> str:
        """Listen on a free port of `host` and return `host:port`."""
        port = self._server.add_insecure_port(f"{host}:0")
        self._server.start()
        self._expiry.start()
        return f"{host}:{port}"

    def stop(self) -> None:
        """End all streams."""
        self._is_stopped.set()
        with self._lock:
            for outbox in self._outboxes.values():
                outbox.end()
        self._server.stop(grace=1.0).wait()
        self._expiry.join()

    def open(self, sequence_id: str, attempt: int, edge_id: str) -> None:
        """Send the events of an attempt to an edge from now on. Raises EngineStopped if that cannot be."""
        with self._lock:
            self._routes.open(sequence_id, attempt, edge_id)

    def close(self, sequence_id: str, attempt: int) -> None:
        """Send no more events of an attempt at a sequence."""
        with self._lock:
            self._routes.close(sequence_id, attempt)

    def publish(self, events: list[TokenEvent]) -> None:
        """Queue the events of one step; never blocks, so the engine's thread may call it."""
        with self._lock:
            for attachment, step in self._routes.route(events).items():
                self._outboxes[attachment].put(step)

    def check_integrity(self) -> None:
        """Assert that the routes agree with themselves and with the outboxes."""
        with self._lock:
            self._routes.check_integrity()

    @property
    def num_open(self) -> int:
        """Return how many sequences are open."""
        with self._lock:
            return self._routes.num_open

    def Join(self, request_iterator: Iterator[pb.EdgeMessage], context: Any) -> Iterator[pb.EngineMessage]:  # noqa: N802
        """Serve one edge until it leaves, falls silent or reads too slowly."""
        edge_id = self._admit(request_iterator, context)
        attachment, outbox = self._attach(edge_id)
        pulse = _Pulse(self._clock.now_s())
        reader = threading.Thread(target=self._read, args=(request_iterator, outbox, pulse), daemon=True)
        reader.start()
        try:
            yield pb.EngineMessage(welcome=pb.Welcome(**_welcome_fields(self._identity)))
            yield from self._outgoing(outbox, pulse)
        finally:
            self._detach(edge_id, attachment)
        if outbox.has_overflown:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"edge {edge_id} reads too slowly")

    def _admit(self, request_iterator: Iterator[pb.EdgeMessage], context: Any) -> str:
        sent = dict(context.invocation_metadata()).get(SECRET_KEY, "")
        if not hmac.compare_digest(str(sent).encode(), self._secret):
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "the cluster's secret is missing or wrong")
        first = next(request_iterator, pb.EdgeMessage())
        if first.attach.protocol != PROTOCOL:
            wanted = f"the token stream speaks protocol {PROTOCOL}, the edge {first.attach.protocol}"
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, wanted)
        return first.attach.edge_id

    def _attach(self, edge_id: str) -> tuple[int, TokenOutbox]:
        outbox = TokenOutbox(self._limits.max_queued_steps, MAX_MERGED_STEPS)
        with self._lock:
            attachment, lost = self._routes.attach(edge_id)
            self._outboxes[attachment] = outbox
        if lost:
            self._on_lost(lost)
        return attachment, outbox

    def _detach(self, edge_id: str, attachment: int) -> None:
        with self._lock:
            self._routes.detach(edge_id, attachment, self._clock.now_s())
            del self._outboxes[attachment]

    def _read(self, request_iterator: Iterator[pb.EdgeMessage], outbox: TokenOutbox, pulse: _Pulse) -> None:
        """Note each sign of life; end the outbox when the edge hangs up."""
        try:
            for _ in request_iterator:
                pulse.heard_at_s = self._clock.now_s()
        except grpc.RpcError:
            logger.info("an edge's token stream broke")
        outbox.end()

    def _outgoing(self, outbox: TokenOutbox, pulse: _Pulse) -> Iterator[pb.EngineMessage]:
        while not outbox.is_over and self._clock.now_s() - pulse.heard_at_s <= self._limits.timeout_s:
            step = outbox.take(self._limits.heartbeat_interval_s)
            yield encode_step(step) if step else pb.EngineMessage(heartbeat=pb.Heartbeat())

    def _expire_loop(self) -> None:
        while not self._is_stopped.wait(self._limits.heartbeat_interval_s):
            with self._lock:
                lost = self._routes.expire(self._clock.now_s())
            if lost:
                self._on_lost(lost)


class TokenSink(Protocol):
    """Where an edge's streams leave what they read; called from their threads."""

    def deliver(self, source: str, events: list[TokenEvent]) -> None:
        """Take the events of one step of the engine at address `source`."""
        ...

    def broken(self, source: str, reason: str) -> None:
        """Learn that nothing more will come from `source` on this stream."""
        ...


class TokenStreamClient:
    """An edge's end of one token stream. A thread reads it, another keeps the heart beating."""

    def __init__(self, address: str, edge_id: str, secret: str, sink: TokenSink, limits: StreamLimits) -> None:
        """Prepare a stream from the engine at `address`; nothing is sent before `connect`."""
        self.address = address
        self._edge_id = edge_id
        self._sink = sink
        self._limits = limits
        self._clock = MonotonicClock()
        self._heard_at_s = self._clock.now_s()
        self._is_closed = threading.Event()
        self._has_answer = threading.Event()
        self._identity: ReplicaIdentity | None = None
        self._failure: Exception | None = None
        self._channel = grpc.insecure_channel(address, options=_CHANNEL_OPTIONS)
        stub = rpc.TokenStreamStub(self._channel)
        self._join = lambda: stub.Join(self._outgoing(), metadata=((SECRET_KEY, secret),))
        self._call: Any = None
        self._reader = threading.Thread(target=self._read, name=f"token-stream-{address}", daemon=True)

    @property
    def is_up(self) -> bool:
        """Return whether the stream carries tokens."""
        return self._identity is not None and self._failure is None and not self._is_closed.is_set()

    @property
    def fingerprint(self) -> str | None:
        """Return the numerics fingerprint of the engine; None before it has answered."""
        return None if self._identity is None else self._identity.fingerprint

    def connect(self) -> ReplicaIdentity:
        """Open the stream and return who answers. Raises EngineStopped, or HandshakeRefused naming what differs."""
        self._heard_at_s = self._clock.now_s()
        self._call = self._join()
        self._reader.start()
        if not self._has_answer.wait(self._limits.timeout_s):
            self.close()
            raise EngineStopped(f"{self.address} did not answer within {self._limits.timeout_s} s")
        if self._identity is None:
            self.close()
            raise self._failure or EngineStopped(f"{self.address} hung up")
        return self._identity

    def close(self) -> None:
        """Hang up. The sink hears nothing more."""
        self._is_closed.set()
        if self._call is not None:
            self._call.cancel()
        self._channel.close()

    def _outgoing(self) -> Iterator[pb.EdgeMessage]:
        yield pb.EdgeMessage(attach=pb.Attach(protocol=PROTOCOL, edge_id=self._edge_id))
        while not self._is_closed.wait(self._limits.heartbeat_interval_s):
            if self._clock.now_s() - self._heard_at_s > self._limits.timeout_s:
                self._call.cancel()
                return
            yield pb.EdgeMessage(heartbeat=pb.Heartbeat())

    def _read(self) -> None:
        failure: Exception = EngineStopped(f"{self.address} ended its token stream")
        try:
            for message in self._call:
                self._heard_at_s = self._clock.now_s()
                self._take(message)
        except grpc.RpcError as error:
            failure = _failure_of(self.address, error)
        self._failure = failure
        self._has_answer.set()
        if self._identity is not None and not self._is_closed.is_set():
            self._sink.broken(self.address, str(failure))

    def _take(self, message: pb.EngineMessage) -> None:
        match message.WhichOneof("body"):
            case "step":
                self._sink.deliver(self.address, decode_step(message.step))
            case "welcome":
                self._identity = ReplicaIdentity(message.welcome.replica_id, message.welcome.fingerprint)
                self._has_answer.set()
            case _:
                pass


def _welcome_fields(identity: ReplicaIdentity) -> dict[str, str]:
    return {"replica_id": identity.replica_id, "fingerprint": identity.fingerprint}


def _failure_of(address: str, error: grpc.RpcError) -> Exception:
    code, details = error.code(), error.details()  # pyright: ignore[reportAttributeAccessIssue] - a Call as well
    if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.FAILED_PRECONDITION):
        return HandshakeRefused(f"{address}: {details}")
    return EngineStopped(f"the token stream of {address} broke: {code.name}: {details}")
