"""What an own Ray is started with; starting it is what the tests marked `ray` do."""

from pathlib import Path

import pytest

from cluster import ray_runtime
from cluster.ray_runtime import lacking


def test_what_a_cluster_lacks_is_named() -> None:
    assert lacking({"attention": 0.002, "GPU": 2}, {"attention": 1.0, "GPU": 1.0}) == {"GPU": 1.0}
    assert lacking({"expert": 3}, {}) == {"expert": 3}
    assert lacking({"attention": 0.001}, {"attention": 0.001}) == {}


def test_the_environment_shuts_strangers_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://nowhere.invalid:1")
    monkeypatch.setenv("no_proxy", "internal.example")
    monkeypatch.delenv("NO_PROXY", raising=False)
    environment = ray_runtime._own_environment(tmp_path, "run-1")
    token = Path(environment["RAY_AUTH_TOKEN_PATH"])
    assert environment["RAY_AUTH_MODE"] == "token"
    assert len(token.read_text(encoding="ascii")) == 64
    assert token.stat().st_mode & 0o077 == 0, "only this user may read the token"
    assert {"127.0.0.1", "localhost", "internal.example"} <= set(environment["NO_PROXY"].split(","))
    assert environment["no_proxy"] == environment["NO_PROXY"]


def test_haproxy_keeps_its_statistics_on_loopback(tmp_path: Path) -> None:
    """The script stands where Serve expects the binary: here `cat` shows the configuration that HAProxy would read."""
    import subprocess

    script = tmp_path / "haproxy.sh"
    text = ray_runtime._HAPROXY_SCRIPT.format(
        metrics_port=9101, stats_port=8404, loopback="127.0.0.1", binary=f"cat {tmp_path}/cfg; true"
    )
    script.write_text(text, encoding="utf-8")
    before = "global\n    maxconn 9\n"
    before += "frontend a\n    bind :9101\nfrontend b\n    bind *:8000\nlisten stats\n  bind *:8404\n  stats enable\n"
    (tmp_path / "cfg").write_text(before, encoding="utf-8")
    shown = subprocess.run(["/bin/sh", script, "-db", "-f", tmp_path / "cfg", "-dR"], capture_output=True, check=True)
    after = before.replace("bind :9101", "bind 127.0.0.1:9101").replace("bind *:8404", "bind 127.0.0.1:8404")
    after = after.replace("global\n", "global\n    no strict-limits\n")
    assert shown.stdout.decode() == after, "the frontend stays as configured"


def test_the_socket_paths_of_an_own_ray_fit_into_what_unix_allows(tmp_path: Path) -> None:
    """HAProxy takes 97 characters, and Serve puts a directory of a node id's 56 between."""
    run_dir = ray_runtime._make_run_dir()
    try:
        paths = ray_runtime._haproxy_environment(run_dir)
        for name in ("RAY_SERVE_HAPROXY_SOCKET_PATH", "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH"):
            if name in paths:
                path = Path(paths[name])
                assert len(str(path.parent / ("0" * 56) / path.name)) <= 97
    finally:
        import shutil

        shutil.rmtree(run_dir)
