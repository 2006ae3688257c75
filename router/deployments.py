"""The application on Ray Serve: an edge in front, attention replicas behind it, and the supervisor that both lean on.

    client ─▶ Serve's proxy ─▶ Edge ── one held-open call a sequence ──▶ AttentionReplica ─▶ ExpertWorkers
                                 ◀───── token stream, one message a step ─────┘

`build` is the one entry point: `expertmesh serve` calls it, and a RayService names it as its import path.
"""

import asyncio
import importlib.metadata
import secrets
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import ray
from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve.config import HTTPOptions, ProxyLocation, RequestRouterConfig
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.handle import DeploymentHandle

from cluster.attention_actor import AttentionReplica
from cluster.cluster_spec import ClusterSpec
from cluster.engine.sequence import SequenceRequest
from cluster.errors import EngineStopped, QueueFull
from cluster.lasting import set_lasting_aside
from cluster.ray_runtime import ATTENTION_RESOURCE
from cluster.sequence_end import SequenceEnd
from cluster.supervisor import connect_supervisor, find_supervisor
from cluster.token_stream import StreamLimits
from cluster.token_stream_pool import TokenStreamPool
from router.attention_router import AttentionRouter
from router.auth import KEYS_VARIABLE, KeyRing, is_loopback, load_keys, require_keys_off_loopback
from router.autoscaling import actor_options, max_ongoing_sequences, scaling_options
from router.config import Config, parse_config
from router.edge_targets import watch_own_presence
from router.errors import PlatformRefused, Unavailable
from router.inbox import Inbox
from router.journal import ResumeLimits
from router.ray_backend import InboxSink, RayBackend
from router.routed_replicas import ROUTED
from router.supervisor_status import SupervisorStatus

if TYPE_CHECKING:
    from ray.serve._private.long_poll import LongPollClient

    from router.api.grpc_server import GrpcServer

APPLICATION = "expertmesh"
"""Name of the Serve application; a RayService must use the same."""
EDGE, ATTENTION = "Edge", "Attention"
"""Names of the deployments."""
HEALTH_CHECK_PERIOD_S = 5.0
HEALTH_CHECK_TIMEOUT_S = 20.0
_EDGE_CLAIM = 0.001
_SPARE_REQUESTS = 64
"""Places at an edge for what is no generation: health, metrics, models."""
_CONTROLLER_TIMEOUT_S = 60.0
_LEAVE_MARGIN_S = 10.0
"""What an edge needs beside its drain: Serve looks for running requests first, and kills what is late."""


def build(args: dict[str, Any]) -> serve.Application:
    """Return the application for a config document, its supervisor running. Raises ConfigInvalid, PlatformRefused."""
    config = parse_config(args, "the application's arguments")
    keys = load_keys(config.edge.auth)
    require_keys_off_loopback(config.edge, keys)
    config = as_served(config, keys)
    spec = cluster_spec(config)
    connect_supervisor(spec)
    deployment: Any = serve.deployment
    attention = deployment(name=ATTENTION, **attention_options(config))(AttentionReplica).bind(spec)
    return deployment(name=EDGE, **edge_options(config))(Edge).bind(config, spec, attention, keys)


def as_served(config: Config, keys: KeyRing) -> Config:
    """Return `config` with the HTTP address of the Serve that runs already: no application can choose another.

    Raises PlatformRefused if that Serve has no HTTP, or listens beyond loopback while no key is asked for.
    """
    wanted, http = config.edge.http, running_http()
    if http is None:
        return config
    if http.host is None:
        raise PlatformRefused(
            f"Ray Serve runs there already, without HTTP; edge.http wants {wanted.host}:{wanted.port}"
        )
    if keys.is_empty and not is_loopback(http.host):
        raise PlatformRefused(
            f"Ray Serve runs there already and listens on {http.host}:{http.port}, where edge.http says "
            f"{wanted.host}:{wanted.port}: beyond loopback an API key is required. Set {KEYS_VARIABLE}=KEY, or "
            "edge.auth.api_keys or edge.auth.api_keys_file in the config, or end that Serve first."
        )
    served = wanted.model_copy(update={"host": http.host, "port": http.port})
    return config.model_copy(update={"edge": config.edge.model_copy(update={"http": served})})


def running_http() -> HTTPOptions | None:
    """Return where the Serve of this Ray listens, `host` None if it has no HTTP; None if no Serve runs."""
    try:
        controller: Any = ray.get_actor("SERVE_CONTROLLER_ACTOR", namespace="serve")
    except ValueError:
        return None
    answers = [controller.get_http_config.remote(), controller.get_proxy_location.remote()]
    http, location = ray.get(answers, timeout=_CONTROLLER_TIMEOUT_S)
    return HTTPOptions(host=None) if location == ProxyLocation.Disabled else http


def cluster_spec(config: Config) -> ClusterSpec:
    """Return what the supervisor and its workers are made from."""
    runtime_env = ray.get_runtime_context().get_runtime_env_string()
    return ClusterSpec(
        APPLICATION,
        config.model,
        config.numerics,
        config.engine,
        config.experts,
        config.attention,
        build=f"{_version()} {runtime_env}",
    )


def attention_options(config: Config) -> dict[str, Any]:
    """Return the attention deployment's options."""
    return {
        **scaling_options(config.attention),
        "max_ongoing_requests": max_ongoing_sequences(config.engine),
        "ray_actor_options": actor_options(config.attention.replica_resources),
        "graceful_shutdown_timeout_s": config.attention.drain_timeout_s,
        "health_check_period_s": HEALTH_CHECK_PERIOD_S,
        "health_check_timeout_s": HEALTH_CHECK_TIMEOUT_S,
        "request_router_config": RequestRouterConfig.model_validate({"request_router_class": AttentionRouter}),
    }


def edge_options(config: Config) -> dict[str, Any]:
    """Return the edge deployment's options; edges run where attention may, so that their ports are found there."""
    claim = {ATTENTION_RESOURCE: _EDGE_CLAIM} if ATTENTION_RESOURCE in config.attention.replica_resources else {}
    return {
        "num_replicas": config.edge.num_replicas,
        "max_ongoing_requests": config.edge.limits.max_running_requests + _SPARE_REQUESTS,
        "ray_actor_options": actor_options(claim),
        "graceful_shutdown_timeout_s": config.attention.drain_timeout_s + _LEAVE_MARGIN_S,
        "health_check_period_s": HEALTH_CHECK_PERIOD_S,
        "health_check_timeout_s": HEALTH_CHECK_TIMEOUT_S,
    }


@serve.ingress()  # pyright: ignore[reportUntypedClassDecorator]
class Edge:
    """Ends HTTP and gRPC, and holds one call open to an attention replica for each sequence."""

    def __init__(self, config: Config, spec: ClusterSpec, attention: DeploymentHandle[Any], keys: KeyRing) -> None:
        """Prepare; the servers start in `__serve_build_asgi_app__`, on the event loop that requests run on."""
        self._config = config
        self._spec = spec
        self._attention = attention
        self._keys = load_keys(config.edge.auth) if keys.is_empty else keys
        self._grpc: GrpcServer | None = None
        self._presence: LongPollClient | None = None

    async def __del__(self) -> None:
        """Let gRPC calls end; Serve awaits this once no HTTP request runs, before it ends the process."""
        if self._presence is not None:
            self._presence.stop()
        if self._grpc is not None:
            await self._grpc.stop(self._config.attention.drain_timeout_s)

    async def __serve_build_asgi_app__(self) -> Any:
        """Start the gRPC server and return the HTTP application; Serve calls it once."""
        from model.tokenizer import Tokenizer
        from router.api.grpc_server import start_grpc_server
        from router.app import create_app
        from router.service import InferenceService

        backend = await self._backend()
        service = InferenceService(backend, Tokenizer(), self._config)
        self._grpc = await start_grpc_server(service, self._config, self._keys, shares_port=True)
        self._presence = watch_own_presence(self._grpc.health.routed)
        await service.warm_up()
        set_lasting_aside()
        return create_app(service, self._config, self._keys, names_responses=False, scale=self._scale)

    async def _scale(self, num_workers: int) -> None:
        try:
            supervisor = await asyncio.to_thread(find_supervisor, self._spec)
            await supervisor.scale.remote(num_workers)
        except RayTaskError as error:
            raise error.cause from error
        except (RayError, ValueError) as error:
            raise Unavailable("The supervisor is away for a moment. Try again.") from error

    async def _backend(self) -> RayBackend:
        secret: str = await find_supervisor(self._spec).secret.remote()
        inbox = Inbox()
        limits = StreamLimits(self._spec.attention.heartbeat_timeout_s)
        status = SupervisorStatus(lambda: find_supervisor(self._spec).status.remote, (RayError, ValueError))
        streams = TokenStreamPool(f"edge-{secrets.token_hex(8)}", secret, InboxSink(inbox), limits)
        section = self._spec.attention
        resumes = ResumeLimits(section.max_resumes, section.max_resume_wait_s, section.max_concurrent_resumes)
        backend = RayBackend(ServeCalls(self._attention), streams, status, inbox, resumes)
        loop = asyncio.get_running_loop()
        ROUTED.listen(lambda routed: _tell(loop, backend, routed))
        return backend


class ServeCalls:
    """Sequences' calls by Serve's own routing: it picks the replica, counts the call, and cancels it."""

    def __init__(self, handle: DeploymentHandle[Any]) -> None:
        """Call the attention deployment behind `handle`."""
        self._generate: Any = handle.generate

    @asynccontextmanager
    async def choose(self, request: SequenceRequest) -> AsyncGenerator["ServeReplica", None]:
        """Pick a replica and keep a place on it until the call has ended."""
        try:
            async with self._generate.choose_replica() as selection:
                yield ServeReplica(self._generate, selection)
        except BackPressureError as error:
            raise QueueFull(str(error)) from error
        except (RayError, RayServeException) as error:
            raise EngineStopped(f"no attention replica took the sequence: {error}") from error


class ServeReplica:
    """An attention replica that Serve's routing has chosen for one sequence."""

    def __init__(self, generate: Any, selection: Any) -> None:
        """Dispatch by `generate` to the replica of `selection`."""
        self._generate = generate
        self._selection = selection

    @property
    def address(self) -> str:
        """Return where its token stream listens."""
        return self._selection.replica_metadata["token_stream"]

    async def hold(self, request: SequenceRequest, edge_id: str) -> SequenceEnd:
        """Run a sequence there until its end; cancelling this aborts it. Raises EngineStopped if the replica dies."""
        response: Any = self._generate.dispatch(self._selection, request, edge_id)
        is_over = False
        try:
            end: SequenceEnd = await response
            is_over = True
        except (RayError, RayServeException) as error:
            is_over = True
            raise EngineStopped(f"the attention replica is gone: {error}") from error
        finally:
            # Cancelling the task that waits does not always reach the replica.
            if not is_over:
                response.cancel()
        return end


def _tell(loop: asyncio.AbstractEventLoop, backend: RayBackend, routed: Mapping[str, str]) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(backend.follow, routed)


def _version() -> str:
    try:
        return importlib.metadata.version("expertmesh")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
