"""Ports that are chosen now and bound later."""

import socket
from pathlib import Path

import pytest

from cluster import free_ports as module
from cluster.free_ports import free_ports


def test_ports_are_different_free_and_not_ephemeral(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handed_out = tmp_path / "range"
    handed_out.write_text("12000\t61000\n", encoding="ascii")
    monkeypatch.setattr(module, "_HANDED_OUT", handed_out)
    ports = free_ports("127.0.0.1", 200)
    assert len(set(ports)) == 200
    assert all(10_000 <= port < 12_000 or port > 61_000 for port in ports)
    for port in ports[:20]:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", port))


def test_a_port_that_is_listened_on_is_not_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", free_ports("127.0.0.1", 1)[0]))
        listener.listen()
        taken = listener.getsockname()[1]
        handed_out = tmp_path / "range"
        handed_out.write_text("10000 65535", encoding="ascii")
        monkeypatch.setattr(module, "_HANDED_OUT", handed_out)
        monkeypatch.setattr(module, "_FIRST", taken)
        monkeypatch.setattr(module, "_END", taken + 1)
        assert set(free_ports("127.0.0.1", 300)) & {taken} == set(), "ephemeral ones, when nothing else is left"


def test_a_host_without_free_ports_is_an_error_that_says_how_many_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handed_out = tmp_path / "range"
    handed_out.write_text("10003 10004", encoding="ascii")
    monkeypatch.setattr(module, "_HANDED_OUT", handed_out)
    monkeypatch.setattr(module, "_END", 10_003)
    with pytest.raises(OSError, match=r"127\.0\.0\.1 has only \d of 6 free ports"):
        free_ports("127.0.0.1", 6)
