"""Ports for servers that bind them later: none that the system may hand to another process meanwhile."""

import random
import socket
from functools import partial
from itertools import islice
from pathlib import Path

_HANDED_OUT = Path("/proc/sys/net/ipv4/ip_local_port_range")
_DEFAULT_HANDED_OUT = (32768, 60999)
_FIRST = 10_000
"""Below lie the ports of well-known services."""
_END = 65536


def free_ports(host: str, count: int) -> list[int]:
    """Return `count` different ports of `host` that nobody listens on; ephemeral ones only when all others are taken.

    Raises OSError if there are not so many.
    """
    low, high = _handed_out()
    others = [*range(_FIRST, low), *range(high + 1, _END)]
    ephemeral = range(max(low, _FIRST), high + 1)
    candidates = random.sample(others, len(others)) + random.sample(ephemeral, len(ephemeral))
    found = list(islice(filter(partial(_is_free, host), candidates), count))
    if len(found) < count:
        raise OSError(f"{host} has only {len(found)} of {count} free ports")
    return found


def _handed_out() -> tuple[int, int]:
    """Return the first and the last port that the system gives to sockets which ask for none."""
    try:
        low, high = _HANDED_OUT.read_text(encoding="ascii").split()
    except OSError:
        return _DEFAULT_HANDED_OUT
    return int(low), int(high)


def _is_free(host: str, port: int) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), port))
        except OSError:
            return False
    return True
