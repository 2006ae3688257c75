"""A whole server on loopback over a HandBackend: uvicorn and gRPC, as standalone runs them, in this process."""

import asyncio
import json
import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import uvicorn

from model.tokenizer import Tokenizer
from router.api.grpc_server import start_grpc_server
from router.app import create_app, uvicorn_config
from router.auth import KeyRing
from router.config import Config
from router.service import InferenceService, ServedModel
from tests.router.fakes.hand_backend import HandBackend

TOKENIZER = Tokenizer()
DATE = "2026-11-22"
MODEL = ServedModel("hand", frozenset({"hand-alias"}), 4096)


def hand_config(**edge: Any) -> Config:
    """Return a config with free ports and a pinned date; `edge` overrides sections of the edge."""
    sections = {"http": {"port": 0}, "grpc": {"port": 0}, "conversation_date": DATE} | edge
    return Config.model_validate_json(json.dumps({"edge": sections}))


def hand_service(backend: HandBackend, **edge: Any) -> InferenceService:
    """Return a service over `backend`."""
    return InferenceService(backend, TOKENIZER, hand_config(**edge), MODEL)


@dataclass
class HandServer:
    """A server that runs, and what it was asked."""

    backend: HandBackend
    service: InferenceService
    http_port: int
    grpc_port: int

    @property
    def url(self) -> str:
        """Return the base of all HTTP paths."""
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def grpc_address(self) -> str:
        """Return host:port of the gRPC server."""
        return f"127.0.0.1:{self.grpc_port}"


class _Server(uvicorn.Server):
    """Tells when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.is_up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.is_up.set()


@contextmanager
def running(backend: HandBackend, keys: KeyRing | None = None, **edge: Any) -> Generator[HandServer]:
    """Run a server over `backend` in a thread of its own until the block ends; nothing is left running."""
    config = hand_config(**edge)
    service = InferenceService(backend, TOKENIZER, config, MODEL)
    app = create_app(service, config, keys or KeyRing())
    server = _Server(uvicorn_config(app, config.edge.http))
    ports: list[int] = []
    is_up = threading.Event()

    async def serve() -> None:
        grpc_server = await start_grpc_server(service, config, keys or KeyRing())
        task = asyncio.create_task(server.serve())
        await server.is_up.wait()
        ports.extend([server.servers[0].sockets[0].getsockname()[1], grpc_server.port])
        is_up.set()
        await task
        await grpc_server.stop(0)

    thread = threading.Thread(target=asyncio.run, args=(serve(),), name="hand-server")
    thread.start()
    try:
        assert is_up.wait(30), "the server did not come up"
        yield HandServer(backend, service, *ports)
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive(), "the server did not stop"
