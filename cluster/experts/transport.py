"""ExpertTransport: how requests reach workers and answers come back; and the transport that calls shards directly."""

from collections.abc import Callable, Mapping
from typing import Protocol, TypeAlias

from cluster.experts.dispatch_events import Answered, StreamBroken, StreamEvent, StreamOpened
from cluster.experts.messages import ExpertRequest, Shard, answer_request
from cluster.experts.placement import WorkerId

Sink: TypeAlias = Callable[[StreamEvent], None]
"""Takes what a transport reports, from any thread; returns soon."""


class ExpertTransport(Protocol):
    """Streams to workers."""

    def start(self, sink: Sink) -> None:
        """Report everything to `sink` from now on: first which workers can be sent to."""
        ...

    def send(self, worker: WorkerId, request: ExpertRequest) -> None:
        """Send without waiting. If the stream is broken the request is lost, and StreamBroken says so."""
        ...

    def close(self) -> None:
        """End all streams; nothing is reported after this has returned."""
        ...


class LocalTransport:
    """Workers that are shards in this process: `send` computes and reports the answer before it returns."""

    def __init__(self, shards: Mapping[WorkerId, Shard], epoch: int = 0) -> None:
        """Serve `shards` by worker; they tell `epoch`."""
        self._shards = dict(shards)
        self._epoch = epoch
        self._sink: Sink | None = None

    def start(self, sink: Sink) -> None:
        """Report every shard as open."""
        self._sink = sink
        for worker in self._shards:
            sink(StreamOpened(worker))

    def send(self, worker: WorkerId, request: ExpertRequest) -> None:
        """Compute at once; a worker that was taken away is a broken stream."""
        if self._sink is None:
            return
        shard = self._shards.get(worker)
        if shard is None:
            self._sink(StreamBroken(worker, "it is gone"))
        else:
            self._sink(Answered(worker, answer_request(shard, request, self._epoch)))

    def take_away(self, worker: WorkerId) -> None:
        """Lose a worker; nobody is told before something is sent to it."""
        self._shards.pop(worker, None)

    def bring_back(self, worker: WorkerId, shard: Shard) -> None:
        """Have a worker again, with a stream to it."""
        self._shards[worker] = shard
        if self._sink is not None:
            self._sink(StreamOpened(worker))

    def close(self) -> None:
        """Report nothing more."""
        self._sink = None
