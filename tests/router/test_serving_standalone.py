"""The standalone form beyond its start: what ends it."""

import io
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from rich.console import Console

from cluster.standalone import Standalone, StandaloneSections
from model.load import Report, no_report
from router.config import load_config
from router.errors import StartFailed
from router.serving_standalone import serve_standalone
from tests.e2e.served import free_port, is_port_free


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_an_engine_that_stops_ends_the_server_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real engine of the embedded model; while it runs the server answers, then nothing listens any more."""
    loaded: list[Standalone] = []
    load = Standalone.load

    def load_and_keep(sections: StandaloneSections, report: Report = no_report) -> Standalone:
        loaded.append(load(sections, report))
        return loaded[-1]

    monkeypatch.setattr(Standalone, "load", load_and_keep)
    ports = free_port(), free_port()
    config = load_config("tiny-standalone", [f"edge.http.port={ports[0]}", f"edge.grpc.port={ports[1]}"])
    is_ready = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(serve_standalone, config, Console(file=io.StringIO()), 0.0, lambda _: is_ready.set())
        assert is_ready.wait(180)
        assert httpx.get(f"http://127.0.0.1:{ports[0]}/ready", trust_env=False).status_code == 200
        loaded[0].engine.stop()
        with pytest.raises(StartFailed, match="nothing brings it back: the engine was stopped"):
            ended.result(30)
    assert is_port_free(ports)
