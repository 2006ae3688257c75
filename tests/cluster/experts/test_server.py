"""The expert server on a real port: secret, handshake, frames good and bad, control, fairness, ports."""

import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import grpc
import numpy as np
import pytest
import torch
from torch import Tensor

from cluster.errors import ExpertError, HandshakeRefused, WorkerLost
from cluster.experts.client import ExpertControl, GrpcExpertTransport
from cluster.experts.dispatch_events import Answered, StreamBroken, StreamOpened, StreamRefused
from cluster.experts.handshake import INCARNATION_KEY, SECRET_KEY, Agreement
from cluster.experts.messages import ExpertLacks, ExpertReply, ExpertRequest, FrameKey
from cluster.experts.server import SERVICE, ExpertServer, ServerOptions
from cluster.experts.wire import HEADER_BYTES, decode_answer, encode_request
from protos import expert_pb2 as pb
from protos import expert_pb2_grpc as rpc
from tests.cluster.experts.hand import AGREEMENT, SECRET, HandShard, frame_format, hand_host, request_of, until
from tests.cluster.experts.served import Events, client_options, nothing_left, served

WIRE = frame_format()
METADATA = ((SECRET_KEY, SECRET.encode()),)


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    with nothing_left():
        yield


def shard() -> HandShard:
    """Return a shard with experts 0 to 3 of layer 0."""
    return HandShard({(0, expert) for expert in range(4)})


def request(send: int = 0, expert: int = 3, num_rows: int = 1) -> ExpertRequest:
    rows = torch.full((num_rows, WIRE.hidden_size), 5.0)
    return request_of(FrameKey(1, 0, 0, 0, send), rows, np.arange(num_rows), np.full(num_rows, expert))


def hello(channel: grpc.Channel, metadata: Any = METADATA) -> pb.HelloReply:
    theirs = pb.HelloRequest(protocol=1, model_digest=AGREEMENT.model_digest, fingerprint=AGREEMENT.fingerprint)
    stub: Any = rpc.ExpertServiceStub(channel)
    return stub.Hello(theirs, metadata=metadata, timeout=5)


def exchange(address: str, frames: list[bytes]) -> list[bytes]:
    """Send raw frames over a stream of their own and return all answers."""
    with grpc.insecure_channel(address) as channel:
        metadata = (*METADATA, (INCARNATION_KEY, str(hello(channel).worker_incarnation)))
        return list(channel.stream_stream(f"/{SERVICE}/Exchange")(iter(frames), metadata=metadata, timeout=5))


def test_frames_are_answered_in_their_order() -> None:
    with served(shard(), WIRE) as address:
        answers = [
            decode_answer(frame, WIRE) for frame in exchange(address, [encode_request(request(n)) for n in (7, 8)])
        ]
    assert [answer.key.send for answer in answers] == [7, 8]
    assert isinstance(answers[0], ExpertReply)
    assert answers[0].outputs.view(np.float32).tolist() == [[20.0] * WIRE.hidden_size]


def test_what_the_worker_lacks_is_named() -> None:
    with served(shard(), WIRE) as address:
        (frame,) = exchange(address, [encode_request(request(expert=6))])
    answer = decode_answer(frame, WIRE)
    assert isinstance(answer, ExpertLacks)
    assert answer.expert_ids.tolist() == [6]


@pytest.mark.parametrize("seed", range(4))
def test_bytes_that_are_no_frame_end_their_own_stream_and_nothing_else(seed: int) -> None:
    rng = np.random.default_rng(seed)
    good = encode_request(request())
    with served(shard(), WIRE) as address:
        for _ in range(15):
            cut = good[: rng.integers(0, len(good))]
            lying = bytearray(good)
            lying[48:60] = rng.integers(0, 256, 12, dtype=np.uint8).tobytes()  # the counts
            for bad in (cut, bytes(lying), rng.integers(0, 256, HEADER_BYTES, dtype=np.uint8).tobytes()):
                with pytest.raises(grpc.RpcError, match="INVALID_ARGUMENT"):
                    exchange(address, [bad])
        assert len(exchange(address, [good])) == 1


def test_a_message_larger_than_any_frame_is_refused_by_its_size() -> None:
    small = replace(WIRE, max_rows=4)
    with served(shard(), small) as address:
        with pytest.raises(grpc.RpcError, match="RESOURCE_EXHAUSTED"):
            exchange(address, [b"\0" * 100_000])
        assert len(exchange(address, [encode_request(request())])) == 1


@pytest.mark.parametrize("metadata", [(), ((SECRET_KEY, b""),), ((SECRET_KEY, SECRET.encode() + b"x"),)])
def test_every_call_needs_the_secret(metadata: Any) -> None:
    with served(shard(), WIRE) as address, grpc.insecure_channel(address) as channel:
        stub: Any = rpc.ExpertServiceStub(channel)
        calls = [
            lambda: hello(channel, metadata),
            lambda: stub.Put(pb.PutRequest(), metadata=metadata, timeout=5),
            lambda: stub.Drop(pb.DropRequest(), metadata=metadata, timeout=5),
            lambda: stub.Status(pb.StatusRequest(), metadata=metadata, timeout=5),
            lambda: list(channel.stream_stream(f"/{SERVICE}/Exchange")(iter([]), metadata=metadata, timeout=5)),
        ]
        assert len(calls) == len(pb.DESCRIPTOR.services_by_name["ExpertService"].methods)
        for call in calls:
            with pytest.raises(grpc.RpcError, match="UNAUTHENTICATED"):
                call()


def test_a_stream_to_an_earlier_life_of_the_worker_is_not_served() -> None:
    with served(shard(), WIRE) as address, grpc.insecure_channel(address) as channel:
        metadata = (*METADATA, (INCARNATION_KEY, "12345"))
        with pytest.raises(grpc.RpcError, match="started anew"):
            list(channel.stream_stream(f"/{SERVICE}/Exchange")(iter([]), metadata=metadata, timeout=5))


@pytest.mark.parametrize(
    ("theirs", "message"),
    [
        (Agreement("other-model", "hand-numerics"), "model digest 'other-model' is not 'hand-model'"),
        (Agreement("hand-model", "avx512"), "fingerprint 'avx512' is not 'hand-numerics'"),
        (Agreement("hand-model", "hand-numerics", protocol=2), "protocol 2 is not 1"),
    ],
)
def test_a_dispatcher_that_disagrees_is_refused_and_told_in_what(theirs: Agreement, message: str) -> None:
    events = Events()
    with served(shard(), WIRE) as address:
        transport = GrpcExpertTransport(WIRE, client_options(agreement=theirs), {"worker-0": address})
        transport.start(events)
        refusal = events.first(StreamRefused)
        transport.close()
    assert isinstance(refusal.error, HandshakeRefused)
    assert message in str(refusal.error)
    assert events.of(StreamOpened) == []


def test_a_wrong_secret_and_another_worker_at_the_address_are_refused() -> None:
    with served(shard(), WIRE) as address:
        for options, worker, message in (
            (client_options(secret="guess"), "worker-0", "secret is missing or differs"),
            (client_options(), "worker-9", "answers worker worker-0, not worker-9"),
        ):
            events = Events()
            transport = GrpcExpertTransport(WIRE, options, {worker: address})
            transport.start(events)
            assert message in str(events.first(StreamRefused).error)
            transport.close()


def test_a_broken_stream_is_told_and_opened_again_when_the_worker_is_back() -> None:
    events = Events()
    server = ExpertServer(hand_host("worker-0", shard(), WIRE), ServerOptions(SECRET))
    port = server.start()
    transport = GrpcExpertTransport(WIRE, client_options(), {"worker-0": f"127.0.0.1:{port}"})
    transport.start(events)
    events.first(StreamOpened)
    server.stop()
    events.first(StreamBroken)
    with served(shard(), WIRE, ServerOptions(SECRET, port_range=(port, port))):
        until(lambda: len(events.of(StreamOpened)) == 2)
        transport.send("worker-0", request())
        assert isinstance(events.first(Answered).answer, ExpertReply)
    transport.close()


def test_workers_may_come_and_go_while_a_transport_is_in_use() -> None:
    events = Events()
    transport = GrpcExpertTransport(WIRE, client_options())
    transport.start(events)
    with served(shard(), WIRE) as address:
        transport.set_workers({"worker-0": address})
        events.first(StreamOpened)
        transport.set_workers({})
        assert events.first(StreamBroken).reason == "the stream was closed"
        transport.send("worker-0", request())
        until(lambda: all(link.has_ended for link in transport._retired))
    transport.close()
    assert events.of(Answered) == []


def test_put_drop_and_status_move_experts() -> None:
    held = shard()
    with served(held, WIRE) as address, ExpertControl("worker-0", address, SECRET) as control:
        assert control.put(3, [(1, 5), (0, 0)]).num_resident == 5
        assert control.drop(4, [(0, 0), (2, 7)]).weight_bytes == 40
        status = control.status()
    assert (status.epoch, status.worker_id, status.num_dispatchers) == (4, "worker-0", 0)
    assert [(each.layer, each.expert) for each in status.resident] == sorted(held.held)
    assert held.held == {(0, 1), (0, 2), (0, 3), (1, 5)}


def test_control_errors_are_the_clusters_own() -> None:
    with ExpertControl("worker-0", "127.0.0.1:1", SECRET, timeout_s=5) as control, pytest.raises(WorkerLost):
        control.status()
    host = hand_host("worker-0", shard(), WIRE)
    host._load_expert = _no_such_expert
    server = ExpertServer(host, ServerOptions(SECRET))
    address = f"127.0.0.1:{server.start()}"
    with ExpertControl("worker-0", address, "guess") as control, pytest.raises(HandshakeRefused):
        control.status()
    with ExpertControl("worker-0", address, SECRET) as control, pytest.raises(ExpertError, match="no expert 9"):
        control.put(0, [(0, 9)])
    server.stop()


def _no_such_expert(layer: int, expert: int) -> Any:
    raise IndexError(f"the model has no expert {expert} in layer {layer}")


def test_dispatchers_beyond_the_limit_wait_for_their_turn() -> None:
    events = [Events(), Events()]
    with served(shard(), WIRE, ServerOptions(SECRET, max_dispatchers=1)) as address:
        transports = [GrpcExpertTransport(WIRE, client_options(), {"worker-0": address}) for _ in events]
        transports[0].start(events[0])
        events[0].first(StreamOpened)
        transports[1].start(events[1])
        time.sleep(0.3)
        assert events[1].of(StreamOpened) == []
        assert events[1].of(StreamRefused) == []
        with ExpertControl("worker-0", address, SECRET) as control:
            assert control.status().num_dispatchers == 1
        transports[0].close()
        events[1].first(StreamOpened)
        transports[1].close()


class SlowShard(HandShard):
    """Takes 20 ms for whatever it is asked, and notes for how many rows."""

    order: list[int]

    def forward(self, layer: int, rows: Tensor, row_ids: Tensor, expert_ids: Tensor) -> Tensor:
        self.order.append(rows.shape[0])
        time.sleep(0.02)
        return super().forward(layer, rows, row_ids, expert_ids)


def test_a_dispatcher_with_many_frames_does_not_crowd_out_another() -> None:
    """One sends 30 frames of one row at once, another one frame of two rows: it waits for few of the 30."""
    slow = SlowShard(shard().held)
    slow.order = []
    with served(slow, WIRE) as address:
        greedy = threading.Thread(target=exchange, args=(address, [encode_request(request(n)) for n in range(30)]))
        greedy.start()
        until(lambda: len(slow.order) >= 2)
        exchange(address, [encode_request(request(num_rows=2))])
        greedy.join(10)
    assert slow.order.index(2) < 20
    assert len(slow.order) == 31


def test_no_port_of_the_range_free_is_one_clear_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = ExpertServer(hand_host("worker-0", shard(), WIRE), ServerOptions(SECRET, port_range=(port, port)))
        with pytest.raises(OSError, match=f"no port {port} of 127.0.0.1 is free for an expert server"):
            server.start()
        server.stop()
        with served(shard(), WIRE, ServerOptions(SECRET, port_range=(port, port + 20))) as address:
            assert port < int(address.split(":")[1]) <= port + 20


def test_a_proxy_that_leads_nowhere_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    events = Events()
    with served(shard(), WIRE) as address:
        transport = GrpcExpertTransport(WIRE, client_options(), {"worker-0": address})
        transport.start(events)
        events.first(StreamOpened)
        transport.close()
        with ExpertControl("worker-0", address, SECRET) as control:
            control.status()


def test_a_transport_never_started_can_be_closed() -> None:
    GrpcExpertTransport(WIRE, client_options()).close()
