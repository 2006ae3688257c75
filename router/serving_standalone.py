"""The standalone form: HTTP, gRPC, engine and model in this one process, without Ray."""

import asyncio
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import uvicorn
from rich.console import Console

from cluster.clock import MonotonicClock
from cluster.standalone import Standalone, StandaloneSections
from model.fingerprint import kernel_build
from model.load import LoadProgress
from model.tokenizer import Tokenizer
from router.api.grpc_server import start_grpc_server
from router.app import create_app, uvicorn_config
from router.backend import ComponentProgress, Readiness, StandaloneBackend
from router.config import Config
from router.errors import StartFailed
from router.service import InferenceService
from router.startup_view import StartupView, print_summary

MODEL = "model"
"""Name of the one component in progress displays."""
_SHOW_INTERVAL_S = 0.1
_WATCH_INTERVAL_S = 0.5
_GRPC_GRACE_S = 2.0


@dataclass(slots=True)
class _Loading:
    """The model on its way into this process; a thread fills it."""

    config: Config
    backend: StandaloneBackend
    standalone: Standalone | None = None
    failure: Exception | None = None
    is_over: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Load, start the engine, attach it; keep what goes wrong for whoever waits."""
        config = self.config
        sections = StandaloneSections(config.model, config.numerics, config.engine, config.attention)
        try:
            self.standalone = Standalone.load(sections, self._report)
            self.standalone.start(self.backend.on_step)
            self.backend.attach(self.standalone.engine, self._ready(self.standalone))
        except Exception as error:  # noqa: BLE001 - raised again where the server is run
            self.failure = error
        self.is_over.set()

    def _report(self, progress: LoadProgress) -> None:
        stage, fraction = f"loading {progress.what}", progress.done / max(1, progress.total)
        component = ComponentProgress(MODEL, stage, fraction)
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

    Raises what loading raises, PlatformRefused for a port that is taken, and StartFailed if the engine stops.
    """
    asyncio.run(_serve(config, console, started_s, on_ready))


async def _serve(config: Config, console: Console, started_s: float, on_ready: Callable[[Config], None]) -> None:
    backend = StandaloneBackend()
    service = InferenceService(backend, Tokenizer(), config)
    grpc = await start_grpc_server(service, config)
    loading = _Loading(config, backend)
    server = _Server(uvicorn_config(create_app(service, config), config.edge.http), loading, console)
    loader = threading.Thread(target=loading.run, name="loader", daemon=True)
    loader.start()
    watching = asyncio.create_task(_watch(loading, server, console, started_s, on_ready))
    try:
        await server.serve()
        await watching
    finally:
        watching.cancel()
        await grpc.stop(_GRPC_GRACE_S)
        if loading.standalone is not None:
            await asyncio.to_thread(loading.standalone.stop)


class _Server(uvicorn.Server):
    """Ends the engine before the connections: each stream gets its last event, and nobody waits for the others."""

    def __init__(self, config: uvicorn.Config, loading: _Loading, console: Console) -> None:
        """Serve by `config` what is `loading`."""
        super().__init__(config)
        self._loading = loading
        self._console = console

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End everything, and say so."""
        self._console.print("Shutting down.")
        if self._loading.standalone is not None:
            await asyncio.to_thread(self._loading.standalone.stop)
        await super().shutdown(sockets)


async def _watch(
    loading: _Loading,
    server: uvicorn.Server,
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
    if loading.failure is not None:
        server.should_exit = True
        raise loading.failure
    if not server.should_exit:
        print_summary(console, loading.config, await backend.ready(), MonotonicClock().now_s() - started_s)
        on_ready(loading.config)
    while not server.should_exit:
        readiness = await backend.ready()
        if not readiness.is_ready and not server.should_exit:
            server.should_exit = True
            raise StartFailed(f"the engine has stopped, and nothing brings it back: {readiness.detail}")
        await asyncio.sleep(_WATCH_INTERVAL_S)
