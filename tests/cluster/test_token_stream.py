"""The token stream over real sockets: order, silence, secrets, death of either side."""

import threading
import time
from collections.abc import Callable, Iterator

import grpc
import pytest

from cluster.engine.sequence import FinishReason, TokenEvent
from cluster.errors import EngineStopped, HandshakeRefused
from cluster.token_outbox import TokenOutbox
from cluster.token_stream import ReplicaIdentity, StreamLimits, TokenStreamClient, TokenStreamServer

SECRET = "a secret for tests"
IDENTITY = ReplicaIdentity("replica-1", "fingerprint-1")
LIMITS = StreamLimits(timeout_s=1.0)


class CollectingSink:
    """Keeps what a stream delivers."""

    def __init__(self) -> None:
        self.events: list[TokenEvent] = []
        self.messages = 0
        self.breaks: list[str] = []

    def deliver(self, source: str, events: list[TokenEvent]) -> None:
        self.messages += 1
        self.events.extend(events)

    def broken(self, source: str, reason: str) -> None:
        self.breaks.append(reason)


class Server:
    """A server with what it lost."""

    def __init__(self, limits: StreamLimits = LIMITS) -> None:
        self.lost: list[str] = []
        self.stream = TokenStreamServer(IDENTITY, SECRET, limits, self.lost.extend)
        self.address = self.stream.start("127.0.0.1")


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.stream.stop()
    running.stream.check_integrity()


def eventually(claim: Callable[[], bool], timeout_s: float = 10.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not claim():
        assert time.monotonic() < deadline_s, "the claim did not come true"
        time.sleep(0.01)


def client_of(server: Server, sink: CollectingSink, edge_id: str = "edge", secret: str = SECRET) -> TokenStreamClient:
    return TokenStreamClient(server.address, edge_id, secret, sink, LIMITS)


def token(sequence_id: str, index: int, finish_reason: FinishReason | None = None) -> TokenEvent:
    return TokenEvent(sequence_id, 0, index, (100 + index,), finish_reason=finish_reason)


def test_every_event_arrives_once_and_in_order_at_the_edge_that_opened_it(server: Server) -> None:
    sinks = {name: CollectingSink() for name in ("a", "b")}
    clients = {name: client_of(server, sink, name) for name, sink in sinks.items()}
    for name, client in clients.items():
        assert client.connect() == IDENTITY
        server.stream.open(f"s-{name}", 0, name)
    for index in range(500):
        server.stream.publish([token("s-a", index), token("s-b", index)])
    for name, sink in sinks.items():
        eventually(lambda sink=sink: len(sink.events) == 500)
        assert sink.events == [token(f"s-{name}", index) for index in range(500)]
    for name, client in clients.items():
        server.stream.close(f"s-{name}", 0)
        client.close()
    assert server.stream.num_open == 0


def test_a_step_is_one_message_whatever_the_number_of_sequences(server: Server) -> None:
    sink = CollectingSink()
    client = client_of(server, sink)
    client.connect()
    for index in range(50):
        server.stream.open(f"s{index}", 0, "edge")
    server.stream.publish([token(f"s{index}", 0) for index in range(50)])
    eventually(lambda: len(sink.events) == 50)
    assert sink.messages == 1
    client.close()


def test_a_wrong_secret_is_refused(server: Server) -> None:
    with pytest.raises(HandshakeRefused, match="secret is missing or wrong"):
        client_of(server, CollectingSink(), secret="guessed").connect()
    with pytest.raises(EngineStopped):
        server.stream.open("s", 0, "edge")


def test_an_address_where_nobody_listens_is_an_engine_that_stopped(server: Server) -> None:
    server.stream.stop()
    with pytest.raises(EngineStopped, match=server.address):
        client_of(server, CollectingSink()).connect()
    server.stream = Server().stream


def test_silence_does_not_break_a_stream_whose_heart_beats(server: Server) -> None:
    sink = CollectingSink()
    client = client_of(server, sink)
    client.connect()
    time.sleep(2.5 * LIMITS.timeout_s)
    assert client.is_up
    server.stream.open("s", 0, "edge")
    server.stream.publish([token("s", 0)])
    eventually(lambda: len(sink.events) == 1)
    assert sink.breaks == []
    client.close()


def test_the_death_of_the_engine_breaks_the_stream_once(server: Server) -> None:
    sink = CollectingSink()
    client = client_of(server, sink)
    client.connect()
    server.stream.stop()
    eventually(lambda: len(sink.breaks) == 1)
    assert not client.is_up
    client.close()
    server.stream = Server().stream
    assert len(sink.breaks) == 1


def test_an_edge_that_stays_gone_loses_its_sequences(server: Server) -> None:
    client = client_of(server, CollectingSink())
    client.connect()
    server.stream.open("s1", 0, "edge")
    server.stream.open("s2", 0, "edge")
    client.close()
    assert server.lost == []
    eventually(lambda: sorted(server.lost) == ["s1", "s2"])
    assert server.stream.num_open == 0


def test_an_edge_that_comes_back_hears_what_it_lost_is_aborted(server: Server) -> None:
    first, second = CollectingSink(), CollectingSink()
    client = client_of(server, first)
    client.connect()
    server.stream.open("old", 0, "edge")
    client.close()
    again = client_of(server, second)
    again.connect()
    eventually(lambda: server.lost == ["old"])
    server.stream.open("new", 0, "edge")
    server.stream.publish([token("old", 1), token("new", 0)])
    eventually(lambda: len(second.events) == 1)
    assert second.events == [token("new", 0)]
    again.close()


class MuteServer:
    """Speaks the protocol's first words and then nothing: what a stopped process looks like."""

    def __init__(self) -> None:
        from protos import engine_pb2 as pb
        from protos import engine_pb2_grpc as rpc

        release = self.release = threading.Event()

        class Mute(rpc.TokenStreamServicer):
            def Join(self, request_iterator, context):  # noqa: N802
                yield pb.EngineMessage(welcome=pb.Welcome(replica_id="mute"))
                release.wait(30)

        from concurrent.futures import ThreadPoolExecutor

        self.server = grpc.server(ThreadPoolExecutor(2))
        rpc.add_TokenStreamServicer_to_server(Mute(), self.server)
        self.address = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        self.server.start()


def test_an_engine_that_falls_silent_breaks_the_stream_within_two_timeouts() -> None:
    mute = MuteServer()
    sink = CollectingSink()
    client = TokenStreamClient(mute.address, "edge", SECRET, sink, LIMITS)
    client.connect()
    started_s = time.monotonic()
    eventually(lambda: len(sink.breaks) == 1)
    assert LIMITS.timeout_s < time.monotonic() - started_s < 2 * LIMITS.timeout_s
    client.close()
    mute.release.set()
    mute.server.stop(0).wait()


def test_an_outbox_that_is_full_is_over_instead_of_making_the_engine_wait() -> None:
    outbox = TokenOutbox(max_steps=2, max_merged_steps=8)
    for index in range(3):
        outbox.put([token("s", index)])
    assert outbox.has_overflown
    assert outbox.is_over
    assert outbox.take(timeout_s=0) == []


def test_a_late_reader_gets_several_steps_at_once() -> None:
    outbox = TokenOutbox(max_steps=10, max_merged_steps=3)
    for index in range(4):
        outbox.put([token("s", index)])
    assert outbox.take(timeout_s=0) == [token("s", index) for index in range(3)]
    assert outbox.take(timeout_s=0) == [token("s", 3)]
    assert outbox.take(timeout_s=0) == []


def test_the_end_of_an_outbox_wakes_its_reader() -> None:
    outbox = TokenOutbox(max_steps=2, max_merged_steps=1)
    taken: list[list[TokenEvent]] = []
    reader = threading.Thread(target=lambda: taken.append(outbox.take(timeout_s=30)))
    reader.start()
    outbox.end()
    reader.join(5)
    assert taken == [[]]
