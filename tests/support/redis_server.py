"""A real Redis for tests that Ray keeps its control state in: loopback only, nothing on disk."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager

from cluster.free_ports import free_ports

BINARY_VARIABLE = "EXPERTMESH_REDIS_SERVER"
"""Names the server's binary where it is not on the PATH."""
_START_TIMEOUT_S = 10.0


def redis_binary() -> str | None:
    """Return the path of a redis-server, or None if this machine has none."""
    return shutil.which(os.environ.get(BINARY_VARIABLE, "redis-server"))


@contextmanager
def redis_server(binary: str) -> Generator[dict[str, str]]:
    """Run a Redis; yield the environment with which a Ray head keeps its state there."""
    (port,) = free_ports("127.0.0.1", 1)
    options = {"port": port, "bind": "127.0.0.1", "save": "", "appendonly": "no", "dir": "/"}
    command = [binary, *(part for name, value in options.items() for part in (f"--{name}", str(value)))]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            _wait_until_it_listens(process, port)
            yield {
                "RAY_REDIS_ADDRESS": f"127.0.0.1:{port}",
                "RAY_external_storage_namespace": "expertmesh-test",
            }
        finally:
            process.terminate()


def _wait_until_it_listens(process: "subprocess.Popen[bytes]", port: int) -> None:
    deadline_s = time.monotonic() + _START_TIMEOUT_S
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert process.poll() is None, f"redis-server ended with {process.returncode}"
        assert time.monotonic() < deadline_s, "redis-server does not listen"
        time.sleep(0.05)
