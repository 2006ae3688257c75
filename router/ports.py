"""Ports that the server is to listen on: checked before anything starts, so that a taken one is one clear line."""

import errno
import os
import socket

from router.config import Config
from router.errors import PlatformRefused


def check_ports(config: Config) -> None:
    """Raise PlatformRefused naming the flags if the HTTP or the gRPC port cannot be listened on; all at once."""
    http, grpc = config.edge.http, config.edge.grpc
    problems = [_problem_with(http.host, http.port, "--port"), _problem_with(grpc.host, grpc.port, "--grpc-port")]
    if http.port == grpc.port != 0:
        problems.append(f"port {http.port} is wanted for HTTP and for gRPC: choose another with --grpc-port")
    if any(problems):
        raise PlatformRefused("; ".join(dict.fromkeys(problem for problem in problems if problem)))


def _problem_with(host: str, port: int, flag: str) -> str | None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        # As servers do: connections that linger from before are no obstacle.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host.strip("[]"), port))
        except OSError as error:
            return _problem(error, host, port, flag)
    return None


def _problem(error: OSError, host: str, port: int, flag: str) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return f"port {port} is taken: choose another with {flag}"
        case errno.EACCES:
            return f"port {port} needs more rights than this user has: choose one above 1023 with {flag}"
        case errno.EADDRNOTAVAIL:
            return f"{host} is no address of this machine: choose another with --host"
        case _:
            return f"{host}:{port} cannot be listened on ({os.strerror(error.errno or 0)}): choose another with {flag}"
