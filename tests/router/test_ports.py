"""A port that cannot be had is one clear line that names the flag."""

import socket
from collections.abc import Generator

import pytest

from router.config import Config, load_config
from router.errors import PlatformRefused
from router.ports import check_ports


@pytest.fixture
def taken() -> Generator[int]:
    """A port of loopback that somebody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def config(http: int = 0, grpc: int = 0, host: str = "127.0.0.1") -> Config:
    settings = [f"edge.http.port={http}", f"edge.grpc.port={grpc}", f"edge.http.host={host}"]
    return load_config("tiny", settings)


def test_free_ports_pass() -> None:
    check_ports(config())


def test_a_taken_http_port_names_its_flag(taken: int) -> None:
    with pytest.raises(PlatformRefused, match=rf"^port {taken} is taken: choose another with --port$"):
        check_ports(config(http=taken))


def test_a_taken_grpc_port_names_its_flag(taken: int) -> None:
    with pytest.raises(PlatformRefused, match=rf"^port {taken} is taken: choose another with --grpc-port$"):
        check_ports(config(grpc=taken))


def test_an_address_that_is_not_ours_names_the_host() -> None:
    with pytest.raises(PlatformRefused, match=r"^203\.0\.113\.7 is no address of this machine: .*--host$"):
        check_ports(config(host="203.0.113.7"))


def test_one_port_cannot_be_both() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(PlatformRefused, match="HTTP and for gRPC"):
        check_ports(config(http=port, grpc=port))


def test_all_ports_that_are_taken_are_told_at_once(taken: int) -> None:
    with socket.socket() as second:
        second.bind(("127.0.0.1", 0))
        second.listen()
        other = second.getsockname()[1]
        with pytest.raises(PlatformRefused) as caught:
            check_ports(config(http=taken, grpc=other))
    assert str(caught.value) == (
        f"port {taken} is taken: choose another with --port; port {other} is taken: choose another with --grpc-port"
    )
