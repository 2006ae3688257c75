"""RemoteExperts over hand-made workers, by each transport, and a check that nothing is left of them."""

import gc
import os
import threading
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from cluster.experts.client import ClientOptions, GrpcExpertTransport
from cluster.experts.dispatch_events import StreamEvent
from cluster.experts.handshake import Agreement, new_incarnation
from cluster.experts.messages import FrameFormat
from cluster.experts.placement import Placement
from cluster.experts.remote_experts import RemoteExperts
from cluster.experts.server import ExpertServer, ServerOptions
from cluster.experts.token_dispatcher import DispatchLimits, TokenDispatcher
from cluster.experts.transport import ExpertTransport, LocalTransport
from tests.cluster.experts.hand import AGREEMENT, SECRET, HandShard, hand_host, until

OPTIONS = ServerOptions(SECRET)
LIMITS = DispatchLimits(reply_timeout_s=5.0, layer_timeout_s=10.0)


def client_options(
    secret: str = SECRET, agreement: Agreement = AGREEMENT, incarnation: int = 1, keepalive_s: float = 2.0
) -> ClientOptions:
    """Return what a dispatcher brings; connects fast."""
    return ClientOptions(secret, agreement, incarnation, connect_timeout_s=5.0, keepalive_s=keepalive_s)


@contextmanager
def served(shard: HandShard, wire: FrameFormat, options: ServerOptions = OPTIONS) -> Generator[str]:
    """Serve `shard` as worker-0; give its address."""
    server = ExpertServer(hand_host("worker-0", shard, wire), options)
    try:
        yield f"127.0.0.1:{server.start()}"
    finally:
        server.stop()


@dataclass
class Meshed:
    """Experts in use, and the shards behind them."""

    experts: RemoteExperts
    shards: Mapping[str, Any]
    transport: ExpertTransport
    servers: dict[str, ExpertServer] = field(default_factory=dict[str, ExpertServer])

    def lose(self, worker: str) -> None:
        """Take a worker away without a word."""
        if isinstance(self.transport, LocalTransport):
            self.transport.take_away(worker)
        else:
            self.servers.pop(worker).stop()


@contextmanager
def meshed(
    kind: str, placement: Placement, shards: Mapping[str, Any], wire: FrameFormat, limits: DispatchLimits = LIMITS
) -> Generator[Meshed]:
    """Give RemoteExperts connected to `shards` by the transport `kind`, local or grpc."""
    servers: dict[str, ExpertServer] = {}
    incarnation = new_incarnation()
    if kind == "grpc":
        servers = {w: ExpertServer(hand_host(w, shard, wire), ServerOptions(SECRET)) for w, shard in shards.items()}
        addresses = {worker: f"127.0.0.1:{server.start()}" for worker, server in servers.items()}
        transport = GrpcExpertTransport(wire, client_options(incarnation=incarnation), addresses)
    else:
        transport = LocalTransport(shards)
    dispatcher = TokenDispatcher(placement, incarnation, wire.output_dtype, limits)
    experts = RemoteExperts(dispatcher, transport, wire)
    try:
        experts.wait_until_connected(10.0)
        yield Meshed(experts, shards, transport, servers)
    finally:
        experts.close()
        for server in servers.values():
            server.stop()


def sockets() -> set[str]:
    """Return the open sockets of this process."""
    links: set[str] = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            links.add(os.readlink(entry))
        except OSError:
            continue
    return {link for link in links if link.startswith("socket:")}


@contextmanager
def nothing_left() -> Generator[None]:
    """Fail if threads or sockets that were not there before are still there soon after."""
    threads_before, sockets_before = set(threading.enumerate()), sockets()
    yield
    deadline_s = time.monotonic() + 5.0
    while left := [*(set(threading.enumerate()) - threads_before), *(sockets() - sockets_before)]:
        assert time.monotonic() < deadline_s, f"left behind: {left}"
        gc.collect()  # gRPC's poller lives as long as its last channel, which an exception's frames may hold
        time.sleep(0.01)


Seen = TypeVar("Seen", bound=StreamEvent)


class Events:
    """A sink that keeps what it is told."""

    def __init__(self) -> None:
        self._seen: list[StreamEvent] = []

    def __call__(self, event: StreamEvent) -> None:
        self._seen.append(event)

    def of(self, kind: type[Seen]) -> list[Seen]:
        """Return the events of a kind, oldest first."""
        return [event for event in self._seen if isinstance(event, kind)]

    def first(self, kind: type[Seen]) -> Seen:
        """Wait for an event of a kind, and return the first."""
        until(lambda: self.of(kind))
        return self.of(kind)[0]
