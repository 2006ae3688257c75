"""TokenStreamPool: the token streams of one edge, one for each attention replica that it has met."""

import asyncio
import threading

from cluster.engine.sequence import TokenEvent
from cluster.token_stream import StreamLimits, TokenSink, TokenStreamClient


class TokenStreamPool:
    """Opens a stream when a replica is first used, and again after it broke. Usable from several event loops."""

    def __init__(self, edge_id: str, secret: str, sink: TokenSink, limits: StreamLimits) -> None:
        """Deliver everything to `sink`; `edge_id` names this process to the replicas."""
        self.edge_id = edge_id
        self._secret = secret
        self._sink = sink
        self._limits = limits
        self._lock = threading.Lock()
        self._clients: dict[str, TokenStreamClient] = {}
        self._connecting: dict[str, threading.Lock] = {}

    async def ensure(self, address: str) -> str:
        """Return the engine's numerics fingerprint once its stream is up. Raises EngineStopped or HandshakeRefused."""
        client = self._clients.get(address)
        if client is not None and client.is_up and client.fingerprint is not None:
            return client.fingerprint
        return await asyncio.to_thread(self._connect, address)

    def close(self) -> None:
        """Hang up all streams."""
        with self._lock:
            clients, self._clients = list(self._clients.values()), {}
        for client in clients:
            client.close()

    def deliver(self, source: str, events: list[TokenEvent]) -> None:
        """Pass a step on."""
        self._sink.deliver(source, events)

    def broken(self, source: str, reason: str) -> None:
        """Forget a stream that broke, and pass it on."""
        with self._lock:
            self._clients.pop(source, None)
        self._sink.broken(source, reason)

    def _connect(self, address: str) -> str:
        with self._lock:
            turn = self._connecting.setdefault(address, threading.Lock())
        with turn:
            client = self._clients.get(address)
            if client is not None and client.is_up and client.fingerprint is not None:
                return client.fingerprint
            fresh = TokenStreamClient(address, self.edge_id, self._secret, self, self._limits)
            identity = fresh.connect()
            with self._lock:
                self._clients[address] = fresh
            return identity.fingerprint
