"""When the server calls itself ready."""

import io
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet

import pytest
from rich.console import Console

from router.backend import Readiness
from router.config import load_config
from router.interrupts import Interrupts
from router.serving import _wait_for_ready, expected_parts
from tests.router.fakes.hand_backend import READY, HandBackend
from tests.router.fakes.hand_server import running


def test_ready_is_said_only_once_a_first_request_would_be_answered() -> None:
    """HTTP answers all the time; what counts is that /ready says yes."""
    backend = HandBackend(readiness=Readiness(is_ready=False, stage="warming up"))
    quiet = Interrupts(Console(file=io.StringIO()))
    with running(backend) as server, ThreadPoolExecutor(1) as pool:
        config = load_config("tiny", [f"edge.http.port={server.http_port}"])
        waiting = pool.submit(_wait_for_ready, config, quiet)
        with pytest.raises(NotYet):
            waiting.result(1.0)
        backend.readiness = READY
        waiting.result(10.0)


def test_the_roles_that_will_be_there_are_known_from_the_config() -> None:
    assert expected_parts(load_config("tiny")) == {"worker": 4, "attention": 1}
    assert expected_parts(load_config("tiny-collapsed")) == {"worker": 0, "attention": 1}
