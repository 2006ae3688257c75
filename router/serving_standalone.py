"""The standalone form: HTTP, gRPC, engine and model in this one process, without Ray."""

import asyncio
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import FrameType

import torch
import uvicorn
from rich.console import Console

from cluster.clock import MonotonicClock
from cluster.cluster_status import PREPARING
from cluster.lasting import set_lasting_aside
from cluster.standalone import Standalone, StandaloneSections
from model.fingerprint import kernel_build
from model.load import LoadProgress
from model.tokenizer import Tokenizer
from router.api.grpc_server import GrpcServer, start_grpc_server
from router.app import create_app, uvicorn_config
from router.backend import ComponentProgress, Readiness, StandaloneBackend
from router.config import Config
from router.errors import PlatformRefused, StartFailed
from router.interrupts import end_children, end_process
from router.service import InferenceService
from router.startup_view import StartupView, print_summary

MODEL = "model"
"""Name of the one component in progress displays."""
_SHOW_INTERVAL_S = 0.1
_WATCH_INTERVAL_S = 0.5
_GRPC_GRACE_S = 2.0
_ABANDON_TIMEOUT_S = 2.0


@dataclass(slots=True)
class _Loading:
    """The model on its way into this process; a thread fills it."""

    config: Config
    backend: StandaloneBackend
    standalone: Standalone | None = None
    failure: Exception | None = None
    is_over: threading.Event = field(default_factory=threading.Event)
    _is_abandoned: bool = False
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin, in a thread."""
        self._thread = threading.Thread(target=self.run, name="loader", daemon=True)
        self._thread.start()

    def abandon(self, timeout_s: float) -> bool:
        """Give the load up; return whether it has ended by now."""
        self._is_abandoned = True
        if self._thread is None:
            return True
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def run(self) -> None:
        """Load, start the engine, attach it; keep what goes wrong for whoever waits."""
        config = self.config
        sections = StandaloneSections(config.model, config.numerics, config.engine, config.attention)
        preparing = ComponentProgress(MODEL, PREPARING, 0.0)
        self.backend.report(Readiness(is_ready=False, stage=PREPARING, components=(preparing,)))
        try:
            kernel_build(config.attention.device)
            self.standalone = Standalone.load(sections, self._report)
            self.standalone.start(self.backend.on_step)
            self.backend.attach(self.standalone.engine, self._ready(self.standalone))
        except Exception as error:  # noqa: BLE001 - raised again where the server is run
            self.failure = error
        self.is_over.set()

    def _report(self, progress: LoadProgress) -> None:
        if self._is_abandoned:
            raise StartFailed("the load was given up")
        stage, fraction = f"loading {progress.what}", progress.done / max(1, progress.total)
        component = ComponentProgress(MODEL, stage, fraction, done=progress.done, total=progress.total)
        self.backend.report(Readiness(is_ready=False, stage=stage, progress=fraction, components=(component,)))

    def _ready(self, standalone: Standalone) -> Readiness:
        return Readiness(
            is_ready=True,
            stage="ready",
            progress=1.0,
            fingerprint=standalone.fingerprint,
            kernel_backend=kernel_build(self.config.attention.device),
            max_context_tokens=standalone.engine.limits.max_context_tokens,
            placement="standalone: all experts in this process",
            components=(ComponentProgress(MODEL, "ready", 1.0, is_ready=True),),
        )


def serve_standalone(
    config: Config, console: Console, started_s: float, on_ready: Callable[[Config], None] = lambda _: None
) -> None:
    """Serve until interrupted.

    Raises what loading raises, PlatformRefused for a port that is taken or a device that is not there, and StartFailed
    if the engine stops.
    """
    if config.attention.device == "cuda" and not torch.cuda.is_available():
        raise PlatformRefused(
            "attention.device is cuda, and PyTorch finds no CUDA device on this machine; "
            "--set attention.device=cpu computes without one"
        )
    backend = StandaloneBackend()
    loading = _Loading(config, backend)
    try:
        asyncio.run(_serve(loading, console, started_s, on_ready))
    except KeyboardInterrupt:
        end_children()  # the compiler of a first start
        if not loading.abandon(_ABANDON_TIMEOUT_S):
            end_process()  # something long is being read
        raise


async def _serve(loading: _Loading, console: Console, started_s: float, on_ready: Callable[[Config], None]) -> None:
    config, backend = loading.config, loading.backend
    service = InferenceService(backend, Tokenizer(), config)
    grpc = await start_grpc_server(service, config)
    server = _Server(uvicorn_config(create_app(service, config), config.edge.http), loading, grpc)
    loading.start()
    watching = asyncio.create_task(_watch(loading, server, console, started_s, on_ready))
    try:
        await server.serve()
        await watching
    finally:
        watching.cancel()
        await grpc.stop(_GRPC_GRACE_S)
        if loading.standalone is not None:
            await asyncio.to_thread(loading.standalone.stop)
    if server.was_interrupted:
        raise KeyboardInterrupt


class _Server(uvicorn.Server):
    """Ends the engine before the connections: each stream gets its last event, and nobody waits for the others."""

    def __init__(self, config: uvicorn.Config, loading: _Loading, grpc: GrpcServer) -> None:
        """Serve by `config` what is `loading`, beside `grpc`."""
        super().__init__(config)
        self.was_interrupted = False
        self._loading = loading
        self._grpc = grpc

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end. uvicorn itself would raise the signal once more at the end, which reads like a second one."""
        self.should_exit = self.was_interrupted = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End everything; gRPC's health says so first, so that nobody is sent here any more."""
        self._grpc.health.leave()
        if self._loading.standalone is not None:
            await asyncio.to_thread(self._loading.standalone.stop)
        await super().shutdown(sockets)


async def _watch(
    loading: _Loading,
    server: _Server,
    console: Console,
    started_s: float,
    on_ready: Callable[[Config], None],
) -> None:
    """Show the progress, then the table; end the server and raise if loading failed, or once the engine stops."""
    backend = loading.backend
    with StartupView(console) as view:
        while not (loading.is_over.is_set() and server.started) and not server.should_exit:
            view.show((await backend.ready()).components)
            await asyncio.sleep(_SHOW_INTERVAL_S)
    if server.was_interrupted and not (loading.is_over.is_set() and server.started):
        # Nothing has been served yet, and what still runs in threads cannot be asked to stop.
        end_children()
        loading.abandon(_ABANDON_TIMEOUT_S)
        end_process()
    if loading.failure is not None:
        server.should_exit = True
        raise loading.failure
    if not server.should_exit:
        set_lasting_aside()
        print_summary(console, loading.config, await backend.ready(), MonotonicClock().now_s() - started_s)
        on_ready(loading.config)
    while not server.should_exit:
        readiness = await backend.ready()
        if not readiness.is_ready and not server.should_exit:
            server.should_exit = True
            raise StartFailed(f"the engine has stopped, and nothing brings it back: {readiness.detail}")
        await asyncio.sleep(_WATCH_INTERVAL_S)
