"""`expertmesh serve`: from a config to a server that answers, in the foreground, and everything gone at its end.

The cluster form runs on a Ray of its own, or joins the one that RAY_ADDRESS names and takes away only what is ours.
"""

import http.client
import io
import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout, suppress
from typing import Any

from rich.console import Console

from cluster.cluster_status import ClusterStatus
from cluster.free_ports import free_ports
from cluster.ray_runtime import NAMESPACE, RayRuntime, join_ray, missing_resources, quiet_loggers, start_own_ray
from router.auth import load_keys, require_keys_off_loopback
from router.backend import ComponentProgress
from router.config import Config
from router.errors import PlatformRefused, StartFailed
from router.interrupts import Interrupts
from router.ports import check_ports
from router.readiness import readiness_of
from router.startup_view import StartupView, print_summary

RAY_ADDRESS_VARIABLE = "RAY_ADDRESS"
LEASE_S = 30.0
"""After so long without a sign of life from this process, the supervisor takes the application down."""
_LEASE_INTERVAL_S = 3.0
_POLL_INTERVAL_S = 0.25
_CALL_TIMEOUT_S = 10.0
_SILENCE_S = 120.0
"""How long the supervisor may be silent: a busy machine is slow to start a process, and Ray to start one anew."""
_HTTP_TIMEOUT_S = 120.0
_TAKE_DOWN_TIMEOUT_S = 30.0
RAY, SERVE, EDGE = "Ray", "Ray Serve", "HTTP"
"""What is shown at start beside attention and experts."""

OnReady = Callable[[Config], None]
"""Called once, when requests are served, with the config whose ports are the real ones. It must return at once."""


def serve(config: Config, console: Console, on_ready: OnReady = lambda _: None) -> None:
    """Serve until SIGINT or SIGTERM, then raise KeyboardInterrupt with everything shut down.

    Raises PlatformRefused for a port or a resource that cannot be had, ConfigInvalid for bad keys, StartFailed if a
    part of the cluster cannot start, and what loading raises.
    """
    started_s = time.monotonic()
    config = _with_chosen_ports(config)
    require_keys_off_loopback(config.edge, load_keys(config.edge.auth))
    address = os.environ.get(RAY_ADDRESS_VARIABLE)
    if config.form == "standalone" or not address:
        check_ports(config)
    if config.form == "standalone":
        with Interrupts(console):
            from router.serving_standalone import serve_standalone  # seconds, in which Ctrl-C is heard already

            serve_standalone(config, console, started_s, on_ready)
        return
    left = f"What it runs on the Ray at {address} is taken down within {LEASE_S:g} s." if address else ""
    with Interrupts(console, left) as interrupts:
        _serve_on_ray(_Application(config, interrupts), console, address, started_s, on_ready)


def _serve_on_ray(
    application: "_Application", console: Console, address: str | None, started_s: float, on_ready: OnReady
) -> None:
    with StartupView(console) as view:
        view.show([ComponentProgress(RAY, f"joining {address}" if address else "starting", 0.0)])
        application.take_up(_start_or_join(address))
    from ray.exceptions import RayError

    try:
        with StartupView(console, expected_parts(application.config)) as view:
            application.deploy(view)
            application.wait_until_running(view)
        status = application.status()
        print_summary(console, application.config, readiness_of(status), time.monotonic() - started_s)
        on_ready(application.config)
        application.hold()
    except RayError as error:
        raise StartFailed(f"Ray: {error}") from error
    finally:
        with console.status("shutting down"):
            application.take_down()


def _start_or_join(address: str | None) -> RayRuntime:
    try:
        return join_ray(address) if address else start_own_ray()
    except Exception as error:
        # Ray has no class of its own for a part of it that does not come up.
        what = f"the Ray at {address} cannot be joined" if address else "Ray did not start"
        raise StartFailed(f"{what}: {error}") from error


class _Application:
    """The application on Ray, owned by this process."""

    def __init__(self, config: Config, interrupts: Interrupts) -> None:
        self.config = config
        """Once Serve runs, with the address that it really has."""
        self._interrupts = interrupts
        self._runtime: RayRuntime | None = None
        self._started_serve = False
        self._supervisor: Any = None
        self._is_left = threading.Event()
        self._lease: threading.Thread | None = None
        self._heard_at_s = time.monotonic()

    def take_up(self, runtime: RayRuntime) -> None:
        """Run on `runtime` from now on."""
        self._runtime = runtime
        self._interrupts.take_sigterm()  # Ray has put its own handler there

    def deploy(self, view: StartupView) -> None:
        """Start Serve, then the supervisor, which begins with the workers, and the deployments.

        Serve comes first and alone: it gives its own processes deadlines, which a machine busy with loading would miss.
        """
        view.show([ComponentProgress(SERVE, "starting", 0.0)])
        self._interrupts.check()
        from ray import serve as ray_serve

        from cluster.supervisor import find_supervisor
        from router.deployments import APPLICATION, as_served, build, cluster_spec

        quiet_loggers()
        self._check_resources()
        self._start_serve()
        self.config = as_served(self.config, load_keys(self.config.edge.auth))
        view.show([ComponentProgress(SERVE, "running", 1.0, is_ready=True)])
        self._interrupts.check()
        application = build(self.config.model_dump(mode="json"))
        self._supervisor = find_supervisor(cluster_spec(self.config))
        self._lease = threading.Thread(target=self._keep_lease, name="lease", daemon=True)
        self._lease.start()
        target = ray_serve.RunTarget(application, name=APPLICATION, route_prefix="/")
        ray_serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)

    def wait_until_running(self, view: StartupView) -> None:
        """Show progress until a first request would be answered; raise StartFailed if a part cannot start."""
        while not self._is_running():
            self._interrupts.check()
            status = self.status()
            if status is not None:
                view.show(readiness_of(status).components)
                _raise_failure(status)
            time.sleep(_POLL_INTERVAL_S)
        view.show([ComponentProgress(EDGE, "waiting for its first answer", 0.0)])
        _wait_for_ready(self.config, self._interrupts)

    def status(self) -> ClusterStatus | None:
        """Return the supervisor's status; None while it does not answer. Raise StartFailed if that goes on."""
        import ray
        from ray.exceptions import GetTimeoutError, RayActorError

        try:
            status: ClusterStatus = ray.get(self._supervisor.status.remote(), timeout=_CALL_TIMEOUT_S)
        except (GetTimeoutError, RayActorError) as error:
            if time.monotonic() - self._heard_at_s > _SILENCE_S:
                raise StartFailed(f"the supervisor has not answered for {_SILENCE_S:g} s: {error}") from error
            return None
        self._heard_at_s = time.monotonic()
        return status

    def hold(self) -> None:
        """Stay the owner until interrupted; raise StartFailed if the application ends for another reason."""
        while True:
            self._interrupts.check()
            time.sleep(_LEASE_INTERVAL_S)
            status = self.status()
            if status is not None and not status.is_wanted:
                raise StartFailed("the application was taken down from elsewhere")

    def take_down(self) -> None:
        """Remove all that is ours; with an own Ray, that is everything."""
        if self._runtime is None:
            return
        self._is_left.set()
        if self._lease is not None:
            self._lease.join(_CALL_TIMEOUT_S)
        if not self._runtime.is_own and self._supervisor is not None:
            self._leave_joined_ray()
        self._runtime.shutdown()

    @property
    def _is_own(self) -> bool:
        """Return whether the Ray is of this process alone."""
        return self._runtime is not None and self._runtime.is_own

    def _start_serve(self) -> None:
        from ray import serve as ray_serve

        from router.deployments import running_http

        self._started_serve = running_http() is None
        if not self._started_serve:
            return
        http = self.config.edge.http
        location = "HeadOnly" if self._is_own else "EveryNode"
        # Serve stops waiting for its proxies after a minute; on a slow machine they come later, and HTTP is waited for.
        with suppress(TimeoutError):
            ray_serve.start(proxy_location=location, http_options={"host": http.host, "port": http.port})

    def _check_resources(self) -> None:
        """Refuse at once what an own Ray can never give; a joined one may yet grow."""
        lacking = missing_resources(wanted_resources(self.config)) if self._is_own else {}
        if lacking:
            names = ", ".join(f"{name}: {amount:g}" for name, amount in sorted(lacking.items()))
            raise PlatformRefused(
                f"this machine lacks {names}, which experts.worker_resources and attention.replica_resources claim; "
                f"choose a config that fits, or name a cluster that has them with {RAY_ADDRESS_VARIABLE}"
            )

    def _is_running(self) -> bool:
        from ray import serve as ray_serve

        from router.deployments import APPLICATION

        application = ray_serve.status().applications.get(APPLICATION)
        if application is None:
            return False
        if application.status.name in {"DEPLOY_FAILED", "UNHEALTHY"}:
            messages = [deployment.message for deployment in application.deployments.values() if deployment.message]
            raise StartFailed("; ".join([application.message, *messages]))
        return application.status.name == "RUNNING"

    def _keep_lease(self) -> None:
        """Give signs of life until the application is left, whatever else this process waits for meanwhile."""
        while not self._is_left.is_set():
            with suppress(Exception):  # Ray that ends or is busy: the next sign follows soon
                self._supervisor.renew_lease.remote(LEASE_S)
            self._is_left.wait(_LEASE_INTERVAL_S)

    def _leave_joined_ray(self) -> None:
        """Take away the application, its workers and its supervisor; and Serve, if it came with us and is idle now."""
        from ray import serve as ray_serve

        from router.deployments import APPLICATION

        self._supervisor.abandon.remote()
        deadline_s = time.monotonic() + _TAKE_DOWN_TIMEOUT_S
        while (_our_actors() or APPLICATION in _applications()) and time.monotonic() < deadline_s:
            time.sleep(_POLL_INTERVAL_S)
        if self._started_serve and not _applications():
            # Ray would tell the terminal that the controller did not survive its own shutdown.
            with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                ray_serve.shutdown()


def wanted_resources(config: Config) -> dict[str, float]:
    """Return what the application claims of a Ray cluster at least, by resource name."""
    wanted: Counter[str] = Counter()
    for number, claim in (
        (config.experts.num_workers, config.experts.worker_resources),
        (config.attention.min_replicas, config.attention.replica_resources),
    ):
        for name, amount in claim.items():
            wanted[name] += number * amount  # pyright: ignore[reportArgumentType] - a Counter takes floats too
    return dict(wanted)


def _raise_failure(status: ClusterStatus) -> None:
    failures = [f"{report.name} could not start: {report.detail}" for report in status.failures]
    if failures:
        raise StartFailed("; ".join(failures))


def expected_parts(config: Config) -> dict[str, int]:
    """Return how many parts of each role there will be at first."""
    return {"worker": config.experts.num_workers, "attention": config.attention.min_replicas}


def _wait_for_ready(config: Config, interrupts: Interrupts) -> None:
    """Return once the edge says, by way of Serve's proxy, that it serves; raise StartFailed if it does not."""
    section = config.edge.http
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(section.host, section.host)
    deadline_s = time.monotonic() + _HTTP_TIMEOUT_S
    said = "nothing answers"
    while time.monotonic() < deadline_s:
        interrupts.check()
        connection = http.client.HTTPConnection(host, section.port, timeout=_CALL_TIMEOUT_S)
        try:
            connection.request("GET", "/ready")
            status = connection.getresponse().status
            if status == http.client.OK:
                return
            said = f"/ready answers {status}"
        except (OSError, http.client.HTTPException) as error:
            said = f"nothing answers ({error})"
        finally:
            connection.close()
        time.sleep(_POLL_INTERVAL_S)
    raise StartFailed(f"HTTP at {section.host}:{section.port} does not serve after {_HTTP_TIMEOUT_S:g} s: {said}")


def _applications() -> list[str]:
    from ray import serve as ray_serve

    return list(ray_serve.status().applications)


def _our_actors() -> list[str]:
    import ray

    named: list[Any] = ray.util.list_named_actors(all_namespaces=True)
    return [entry["name"] for entry in named if entry["namespace"] == NAMESPACE]


def _with_chosen_ports(config: Config) -> Config:
    """Return the config with a free port wherever it leaves the choice to the system."""
    edge = config.edge
    http = edge.http.model_copy(update={"port": edge.http.port or free_ports(edge.http.host, 1)[0]})
    others = (port for port in free_ports(edge.grpc.host, 2) if port != http.port)
    grpc = edge.grpc.model_copy(update={"port": edge.grpc.port or next(others)})
    return config.model_copy(update={"edge": edge.model_copy(update={"http": http, "grpc": grpc})})
