"""ExpertServer: an ExpertHost on a port. Threads, because a stream's own thread computes its answers: no hand-over.

Measured on two cores, 4 servers, 8 rows: threads and asyncio take the same time on this side, and a thread may load an
expert while another computes.
"""

import errno
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grpc

from cluster.errors import FrameError
from cluster.experts.expert_host import ExpertHost
from cluster.experts.handshake import INCARNATION_KEY, READY_KEY, SECRET_KEY, Agreement, is_secret
from cluster.experts.wire import max_frame_bytes
from model.errors import CheckpointError
from protos import expert_pb2 as pb

SERVICE = "expertmesh.expert.v1.ExpertService"
_CONTROL_THREADS = 4


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Where and for whom a worker listens."""

    secret: str
    host: str = "127.0.0.1"
    port_range: tuple[int, int] = (0, 0)
    """First and last port to try; (0, 0) lets the system choose."""
    max_dispatchers: int = 32
    keepalive_s: float = 10.0
    """Silence after which a dispatcher is pinged; it has as long again to answer."""


class ExpertServer:
    """Serves `expertmesh.expert.v1` for one worker."""

    def __init__(self, host: ExpertHost, options: ServerOptions) -> None:
        """Take what to serve and where; nothing listens before `start`."""
        self._host = host
        self._options = options
        self._dispatchers_lock = threading.Lock()
        self._num_dispatchers = 0
        self._executor = ThreadPoolExecutor(options.max_dispatchers + _CONTROL_THREADS, "expert-server")
        self._server: Any = grpc.server(
            self._executor,
            handlers=[grpc.method_handlers_generic_handler(SERVICE, self._handlers())],
            interceptors=[_SecretCheck(options.secret)],
            options=_server_options(host, options),
            maximum_concurrent_rpcs=options.max_dispatchers + _CONTROL_THREADS,
        )

    def start(self) -> int:
        """Listen, and return the port; raises OSError if no port of the range is free."""
        port = self._bind()
        self._server.start()
        return port

    def stop(self, grace_s: float = 0.0) -> None:
        """Give open calls `grace_s` to end, then end them; returns when nothing runs any more."""
        self._server.stop(grace_s).wait()
        self._executor.shutdown()

    def _bind(self) -> int:
        first, last = self._options.port_range
        for port in range(first, last + 1):
            if port == 0 or _is_free(self._options.host, port):
                try:
                    return self._server.add_insecure_port(_address(self._options.host, port))
                except RuntimeError:
                    continue  # somebody took it in between
        name = f"port {first}" if first == last else f"port from {first} to {last}"
        raise OSError(errno.EADDRINUSE, f"no {name} of {self._options.host} is free for an expert server")

    def _handlers(self) -> dict[str, Any]:
        return {
            "Exchange": grpc.stream_stream_rpc_method_handler(self._exchange),
            "Hello": _unary(self._hello, pb.HelloRequest, pb.HelloReply),
            "Put": _unary(self._put, pb.PutRequest, pb.PutReply),
            "Drop": _unary(self._drop, pb.DropRequest, pb.DropReply),
            "Status": _unary(self._status, pb.StatusRequest, pb.StatusReply),
        }

    def _hello(self, request: pb.HelloRequest, context: Any) -> pb.HelloReply:
        identity = self._host.identity
        theirs = Agreement(request.model_digest, request.fingerprint, request.protocol)
        difference = theirs.difference(identity.agreement)
        if difference:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"worker {identity.worker_id}: {difference}")
        status = self._host.status()
        return pb.HelloReply(
            worker_id=identity.worker_id,
            worker_incarnation=self._host.incarnation,
            epoch=status.epoch,
            num_resident=len(status.resident),
        )

    def _exchange(self, frames: Iterator[bytes], context: Any) -> Iterator[bytes]:
        expected = str(self._host.incarnation)
        if dict(context.invocation_metadata()).get(INCARNATION_KEY) != expected:
            context.abort(grpc.StatusCode.ABORTED, "this worker has started anew: say Hello first")
        with self._dispatchers_lock:
            is_admitted = self._num_dispatchers < self._options.max_dispatchers
            self._num_dispatchers += is_admitted
        if not is_admitted:
            most = self._options.max_dispatchers
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{most} dispatchers are connected, no more are admitted")
        try:
            context.send_initial_metadata(((READY_KEY, "1"),))
            yield from map(self._host.answer, frames)
        except FrameError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        finally:
            with self._dispatchers_lock:
                self._num_dispatchers -= 1

    def _put(self, request: pb.PutRequest, context: Any) -> pb.PutReply:
        try:
            status = self._host.put(request.epoch, [(each.layer, each.expert) for each in request.experts])
        except (CheckpointError, IndexError, MemoryError, RuntimeError) as error:
            context.abort(grpc.StatusCode.INTERNAL, f"{self._host.identity.worker_id}: {error}")
            raise
        return pb.PutReply(num_resident=len(status.resident), weight_bytes=status.weight_bytes)

    def _drop(self, request: pb.DropRequest, context: Any) -> pb.DropReply:
        status = self._host.drop(request.epoch, [(each.layer, each.expert) for each in request.experts])
        return pb.DropReply(num_resident=len(status.resident), weight_bytes=status.weight_bytes)

    def _status(self, request: pb.StatusRequest, context: Any) -> pb.StatusReply:
        status = self._host.status()
        return pb.StatusReply(
            worker_id=self._host.identity.worker_id,
            worker_incarnation=self._host.incarnation,
            epoch=status.epoch,
            weight_bytes=status.weight_bytes,
            resident=[pb.ExpertId(layer=layer, expert=expert) for layer, expert in sorted(status.resident)],
            num_dispatchers=self._num_dispatchers,
            num_frames=status.num_frames,
            num_pairs=status.num_pairs,
            busy_s=status.busy_s,
        )


class _SecretCheck(grpc.ServerInterceptor):
    """Refuses every call that does not bring the cluster's secret, before anything else looks at it."""

    def __init__(self, secret: str) -> None:
        self._secret = secret

    def intercept_service(self, continuation: Callable[[Any], Any], handler_call_details: Any) -> Any:
        handler = continuation(handler_call_details)
        given = dict(handler_call_details.invocation_metadata).get(SECRET_KEY)
        if handler is None or is_secret(given, self._secret):
            return handler
        if handler.request_streaming:
            return grpc.stream_stream_rpc_method_handler(_refuse)
        return grpc.unary_unary_rpc_method_handler(_refuse)


def _refuse(request: Any, context: Any) -> Any:
    context.abort(grpc.StatusCode.UNAUTHENTICATED, "the cluster's secret is missing or differs")


def _unary(behaviour: Callable[[Any, Any], Any], request: Any, reply: Any) -> Any:
    return grpc.unary_unary_rpc_method_handler(
        behaviour, request_deserializer=request.FromString, response_serializer=reply.SerializeToString
    )


def _server_options(host: ExpertHost, options: ServerOptions) -> list[tuple[str, int]]:
    max_bytes = max_frame_bytes(host.frame_format)
    keepalive_ms = int(options.keepalive_s * 1000)
    return [
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", max_bytes),
        ("grpc.max_send_message_length", max_bytes),
        ("grpc.keepalive_time_ms", keepalive_ms),
        ("grpc.http2.ping_timeout_ms", keepalive_ms),  # without it, 60 s whatever keepalive_timeout_ms says
        ("grpc.keepalive_permit_without_calls", 1),
        # Dispatchers ping often to notice a hung worker: these are no abuse.
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 100),
        ("grpc.http2.max_ping_strikes", 0),
    ]


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _is_free(host: str, port: int) -> bool:
    """Say whether a port can be bound: asking gRPC for a taken one makes it write to stderr."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
