"""Streams to expert workers over gRPC: one for each worker, opened by a handshake, kept open, opened again when broken.

One thread with an event loop of its own drives all streams. Measured against a reading and a writing thread for each
stream, 4 servers, 8 rows, quiet machine: 0.6 against 1.0 ms a round trip, because the Python side of a stream costs
more than its bytes and threads hand the interpreter to each other; beside a working engine 0.95 against 1.3 ms.
"""

import asyncio
import contextlib
import logging
import threading
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
import uvloop

from cluster.errors import ExpertError, FrameError, HandshakeRefused, WorkerLost
from cluster.experts.dispatch_events import Answered, StreamBroken, StreamEvent, StreamOpened, StreamRefused
from cluster.experts.handshake import INCARNATION_KEY, READY_KEY, SECRET_KEY, Agreement
from cluster.experts.messages import ExpertRequest, FrameFormat
from cluster.experts.placement import ExpertKey, WorkerId
from cluster.experts.transport import Sink
from cluster.experts.wire import decode_answer, encode_request, max_frame_bytes
from protos import expert_pb2 as pb
from protos import expert_pb2_grpc as rpc

_EXCHANGE = "/expertmesh.expert.v1.ExpertService/Exchange"
_REFUSALS = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.UNIMPLEMENTED)

LAST_EVENTS_S = 2.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ClientOptions:
    """What a dispatcher brings to its workers."""

    secret: str
    agreement: Agreement
    incarnation: int
    """The dispatcher's."""
    connect_timeout_s: float = 20.0
    keepalive_s: float = 2.0
    """Silence after which a worker is pinged; with as long again and no answer, its stream is broken."""
    first_backoff_s: float = 0.05
    last_backoff_s: float = 2.0
    """Pause between attempts to connect; it doubles from the first to the last."""


class GrpcExpertTransport:
    """An `ExpertTransport` over gRPC streams."""

    def __init__(
        self, frame_format: FrameFormat, options: ClientOptions, addresses: Mapping[WorkerId, str] | None = None
    ) -> None:
        """Take the workers' addresses as host:port; nothing is connected before `start`."""
        self._format = frame_format
        self._options = options
        self._addresses = dict(addresses or {})
        self._links: dict[WorkerId, _Link] = {}
        self._retired: list[_Link] = []  # ending, or ended
        self._outbox: deque[tuple[WorkerId, bytes]] = deque()
        self._is_flush_due = False
        self._loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="expert-streams", daemon=True)
        self._sink: Sink = _ignore

    def start(self, sink: Sink) -> None:
        """Connect to every worker, and report to `sink` from a thread of this transport's own."""
        self._sink = sink
        self._thread.start()
        self._loop.call_soon_threadsafe(self._reconcile)

    def set_workers(self, addresses: Mapping[WorkerId, str]) -> None:
        """Connect to these workers and leave all others; one whose address changed is connected to anew."""
        self._addresses = dict(addresses)
        self._loop.call_soon_threadsafe(self._reconcile)

    def send(self, worker: WorkerId, request: ExpertRequest) -> None:
        """Send without waiting; a request to a worker without a stream is lost."""
        self._outbox.append((worker, encode_request(request)))
        if not self._is_flush_due:  # the sends of one layer wake the loop once
            self._is_flush_due = True
            self._loop.call_soon_threadsafe(self._flush)

    def close(self) -> None:
        """End all streams, and the thread."""
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._end_links(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        if not self._loop.is_closed():
            self._loop.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _flush(self) -> None:
        self._is_flush_due = False
        while self._outbox:
            worker, frame = self._outbox.popleft()
            link = self._links.get(worker)
            if link is not None:
                link.write(frame)

    def _reconcile(self) -> None:
        for worker, link in list(self._links.items()):
            if self._addresses.get(worker) != link.address:
                link.cancel()
                self._retired = [*(each for each in self._retired if not each.has_ended), self._links.pop(worker)]
        for worker, address in self._addresses.items():
            if worker not in self._links:
                self._links[worker] = _Link(worker, address, self._format, self._options, self._sink)

    async def _end_links(self) -> None:
        self._addresses = {}
        links = [*self._links.values(), *self._retired]
        self._links, self._retired = {}, []
        for link in links:
            link.cancel()
        for link in links:
            await link.ended()
        # gRPC's own tasks wait for the last events of cancelled calls: one that found its loop closed would cost other
        # loops of the process theirs.
        if rest := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(rest, timeout=LAST_EVENTS_S)


class _Link:
    """The stream to one worker, and the task that opens it again and again. Lives on the loop's thread."""

    def __init__(
        self, worker: WorkerId, address: str, frame_format: FrameFormat, options: ClientOptions, sink: Sink
    ) -> None:
        self.address = address
        self._worker = worker
        self._format = frame_format
        self._options = options
        self._sink = sink
        self._call: Any = None  # None while there is no open stream
        self._unwritten: deque[bytes] = deque()
        self._writing: asyncio.Task[None] | None = None
        self._task: asyncio.Task[None] | None = asyncio.get_running_loop().create_task(self._keep_open())
        self._task.add_done_callback(self._finish)

    @property
    def has_ended(self) -> bool:
        """Say whether nothing of it runs any more."""
        return self._task is None

    def cancel(self) -> None:
        """Begin to end it."""
        if self._task is not None:
            self._task.cancel()

    async def ended(self) -> None:
        """Wait until it has ended."""
        if self._task is not None:
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def _finish(self, task: "asyncio.Task[None]") -> None:
        self._task = None  # its traceback would keep the channel, and with it gRPC's poller
        if not task.cancelled() and (error := task.exception()):
            logger.critical("the stream to worker %s is given up", self._worker, exc_info=error)

    def write(self, frame: bytes) -> None:
        """Write a frame after those before it; without an open stream it is lost, as StreamBroken has said."""
        if self._call is not None:
            self._unwritten.append(frame)
            if self._writing is None:
                self._writing = asyncio.get_running_loop().create_task(self._write_all(self._call))

    async def _write_all(self, call: Any) -> None:
        try:
            while self._unwritten:
                await call.write(self._unwritten.popleft())
        except (grpc.RpcError, asyncio.InvalidStateError):
            self._unwritten.clear()  # the stream is broken, as whoever reads it is being told
        finally:
            self._writing = None

    async def _keep_open(self) -> None:
        backoff_s = self._options.first_backoff_s
        while True:
            was_open = await self._session()
            backoff_s = self._options.first_backoff_s if was_open else min(2 * backoff_s, self._options.last_backoff_s)
            await asyncio.sleep(backoff_s)

    async def _session(self) -> bool:
        """Connect and serve one stream until it breaks; say whether it ever opened."""
        channel_options = _channel_options(self._format, self._options)
        try:
            async with grpc.aio.insecure_channel(self.address, options=channel_options) as channel:
                incarnation = await self._shake_hands(channel)
                metadata = (*_secret(self._options.secret), (INCARNATION_KEY, str(incarnation)))
                call = channel.stream_stream(_EXCHANGE)(metadata=metadata)
                if (READY_KEY, "1") not in tuple(await call.initial_metadata()):
                    await call.read()  # raises why
                await self._read_all(call)
                return True
        except (HandshakeRefused, grpc.RpcError) as error:
            self._report(error)
            return False

    def _report(self, error: Exception) -> None:
        trouble = error if isinstance(error, HandshakeRefused) else _translated(self._worker, error)
        logger.info("worker %s at %s: %s", self._worker, self.address, trouble)
        if isinstance(trouble, HandshakeRefused):  # said by a new error, without the frames behind this one
            self._sink(StreamRefused(self._worker, HandshakeRefused(str(trouble))))

    async def _shake_hands(self, channel: Any) -> int:
        """Return the worker's incarnation; raises HandshakeRefused or RpcError."""
        options = self._options
        hello: Any = rpc.ExpertServiceStub(channel).Hello
        reply = await hello(
            _hello_request(options), metadata=_secret(options.secret), timeout=options.connect_timeout_s
        )
        if reply.worker_id != self._worker:
            raise HandshakeRefused(f"at {self.address} answers worker {reply.worker_id}, not {self._worker}")
        return reply.worker_incarnation

    async def _read_all(self, call: Any) -> None:
        """Hand on every answer until the stream breaks, and say that it has."""
        reason = "the stream was closed"
        self._call = call
        self._sink(StreamOpened(self._worker))
        try:
            while True:
                frame = await call.read()
                if not isinstance(frame, bytes):  # the end of the stream
                    reason = "the worker ended the stream"
                    return
                self._sink(Answered(self._worker, decode_answer(frame, self._format)))
        except grpc.RpcError as error:
            reason = _describe(error)
        except FrameError as error:
            reason = str(error)
        finally:
            self._call = None
            self._unwritten.clear()
            self._sink(StreamBroken(self._worker, reason))


class ExpertControl:
    """The control calls of one worker, for whoever moves experts. Calls block; errors are ExpertErrors."""

    def __init__(self, worker: WorkerId, address: str, secret: str, timeout_s: float = 60.0) -> None:
        """Talk to `worker` at host:port; each call may take `timeout_s`."""
        self._worker = worker
        self._secret = secret
        self._timeout_s = timeout_s
        self._channel = grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)])
        self._stub: Any = rpc.ExpertServiceStub(self._channel)

    def put(self, epoch: int, experts: Iterable[ExpertKey]) -> pb.PutReply:
        """Have the worker load experts from its checkpoint; returns when they are resident."""
        return self._called(self._stub.Put, pb.PutRequest(epoch=epoch, experts=_expert_ids(experts)))

    def drop(self, epoch: int, experts: Iterable[ExpertKey]) -> pb.DropReply:
        """Have the worker forget experts."""
        return self._called(self._stub.Drop, pb.DropRequest(epoch=epoch, experts=_expert_ids(experts)))

    def status(self) -> pb.StatusReply:
        """Return what the worker holds and has done."""
        return self._called(self._stub.Status, pb.StatusRequest())

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def __enter__(self) -> "ExpertControl":
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def _called(self, method: Any, request: Any) -> Any:
        try:
            return method(request, metadata=_secret(self._secret), timeout=self._timeout_s)
        except grpc.RpcError as error:
            raise _translated(self._worker, error) from error


def _ignore(event: StreamEvent) -> None:
    """Stand in for the sink before there is one."""


def _secret(secret: str) -> tuple[tuple[str, bytes], ...]:
    return ((SECRET_KEY, secret.encode()),)


def _hello_request(options: ClientOptions) -> pb.HelloRequest:
    agreement = options.agreement
    return pb.HelloRequest(
        protocol=agreement.protocol,
        model_digest=agreement.model_digest,
        fingerprint=agreement.fingerprint,
        dispatcher_incarnation=options.incarnation,
    )


def _expert_ids(experts: Iterable[ExpertKey]) -> list[pb.ExpertId]:
    return [pb.ExpertId(layer=layer, expert=expert) for layer, expert in experts]


def _channel_options(frame_format: FrameFormat, options: ClientOptions) -> list[tuple[str, int]]:
    max_bytes = max_frame_bytes(frame_format)
    keepalive_ms = int(options.keepalive_s * 1000)
    return [
        ("grpc.enable_http_proxy", 0),
        ("grpc.use_local_subchannel_pool", 1),  # or a new channel inherits the back-off of the old one
        ("grpc.max_receive_message_length", max_bytes),
        ("grpc.max_send_message_length", max_bytes),
        ("grpc.keepalive_time_ms", keepalive_ms),
        ("grpc.http2.ping_timeout_ms", keepalive_ms),  # without it, 60 s whatever keepalive_timeout_ms says
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
    ]


def _describe(error: Exception) -> str:
    call: Any = error
    return f"{call.code().name}: {call.details()}"


def _translated(worker: WorkerId, error: Exception) -> ExpertError:
    call: Any = error
    text = f"worker {worker}: {_describe(error)}"
    if call.code() in _REFUSALS:
        return HandshakeRefused(text)
    return WorkerLost(text) if call.code() == grpc.StatusCode.UNAVAILABLE else ExpertError(text)
