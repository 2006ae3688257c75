"""Expert workers as processes that can hang and die, and the streams to them, in simulated time.

What a worker answers is computed by the code that real workers run, and crosses the network as the bytes of real
frames. A stream keeps the order of its answers, as gRPC does, and tells of a worker's death after a while.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from cluster.errors import HandshakeRefused
from cluster.experts.dispatch_events import Answered, StreamBroken, StreamEvent, StreamOpened, StreamRefused
from cluster.experts.messages import ExpertRequest, answer_request
from cluster.experts.placement import WorkerId
from cluster.experts.wire import decode_answer, decode_request, encode_answer, encode_request
from tests.cluster.experts.hand import HandShard
from tests.simulation.paper_model import WIRE
from tests.simulation.world import World

NETWORK_S = 0.03
"""Longest way of a message."""
COMPUTE_S = 0.03
DETECTION_S = 0.3
"""Longest time until the other end notices that a process has died."""
CONNECT_S = 0.2
REFUSED = 0.02
"""Share of handshakes that fail, and are tried again."""
REPEATED = 0.01
"""Share of answers that come twice."""
RETRY_S = 0.5

Seat = tuple[int, int]
"""A worker's index and incarnation."""


@dataclass(eq=False)
class WorkerProcess:
    """One incarnation of a worker."""

    world: World
    seat: Seat
    shard: HandShard
    is_alive: bool = True
    is_ready: bool = False
    is_odd: bool = False
    """Its hardware computes other bits."""
    was_refused: bool = False
    hung_until_s: float = 0.0
    on_death: list[Callable[[], None]] = field(default_factory=list[Callable[[], None]])

    def compute(self, frame: bytes, answered: Callable[[bytes], None]) -> None:
        """Answer a frame after a while, unless death comes first."""
        busy_s = self.world.chance.random() * COMPUTE_S
        wait_s = max(0.0, self.hung_until_s - self.world.now_s())
        self.world.later(wait_s + busy_s, lambda: self._finish(frame, answered))

    def hang(self, seconds: float) -> None:
        """Stand still, as after SIGSTOP."""
        self.world.note(f"worker {self.seat} hangs for {seconds:.2f} s")
        self.hung_until_s = self.world.now_s() + seconds

    def fail(self, seconds: float) -> None:
        """Answer nothing but that the device fails, for a while."""
        self.world.note(f"the device of worker {self.seat} fails for {seconds:.2f} s")
        self.shard.failure = "its device fails"
        self.world.later(seconds, lambda: setattr(self.shard, "failure", None))

    def die(self) -> None:
        """End at once."""
        if self.is_alive:
            self.world.note(f"worker {self.seat} dies")
            self.is_alive = False
            for tell in self.on_death:
                tell()

    def _finish(self, frame: bytes, answered: Callable[[bytes], None]) -> None:
        if not self.is_alive:
            return
        if self.hung_until_s > self.world.now_s():
            self.compute(frame, answered)
            return
        answer = answer_request(self.shard, decode_request(frame, WIRE), 0)
        answered(encode_answer(answer, WIRE))


class Stream:
    """One connection to one incarnation of a worker."""

    def __init__(self, world: World, worker_id: WorkerId, process: WorkerProcess, sink: Callable[[StreamEvent], None]):
        self._world, self._worker_id, self._process, self._sink = world, worker_id, process, sink
        self._is_open = False
        self._is_closed = False
        self._last_arrival_s = 0.0
        process.on_death.append(self._died)
        world.soon(CONNECT_S, self._open)

    @property
    def process(self) -> WorkerProcess:
        """Return who is at the other end."""
        return self._process

    def send(self, frame: bytes) -> None:
        """Send a frame; it is lost if the stream is broken."""
        if self._is_open and not self._is_closed:
            self._world.soon(NETWORK_S, lambda: self._process.compute(frame, self._answered))

    def close(self) -> None:
        """Say nothing any more."""
        self._is_closed = True

    def cut(self, reason: str) -> None:
        """Break, as when the network between fails; what was sent is never answered."""
        if self._is_open and not self._is_closed:
            self._is_closed = True
            self._sink(StreamBroken(self._worker_id, reason))

    def _open(self) -> None:
        if self._process.is_alive and not self._is_closed:
            if self._world.chance.random() < REFUSED:
                self._sink(StreamRefused(self._worker_id, HandshakeRefused("the secret is another")))
                self._world.later(RETRY_S, self._open)
                return
            self._is_open = True
            self._sink(StreamOpened(self._worker_id))

    def _answered(self, frame: bytes) -> None:
        arrival_s = max(self._last_arrival_s, self._world.now_s() + self._world.chance.random() * NETWORK_S)
        self._last_arrival_s = arrival_s
        for _ in range(2 if self._world.chance.random() < REPEATED else 1):
            self._world.later(arrival_s - self._world.now_s(), lambda: self._arrive(frame))

    def _arrive(self, frame: bytes) -> None:
        if not self._is_closed:
            self._sink(Answered(self._worker_id, decode_answer(frame, WIRE)))

    def _died(self) -> None:
        """Notice the other end's death after a while; what it sent before may still arrive."""
        self._world.soon(DETECTION_S, lambda: self.cut("its process died"))


class SimulatedTransport:
    """Streams to the workers of a membership, made anew when they break, as `GrpcExpertTransport` keeps them."""

    def __init__(self, world: World, sink: Callable[[StreamEvent], None]) -> None:
        self._world, self._sink = world, sink
        self._streams: dict[WorkerId, Stream] = {}

    def set_workers(self, processes: Mapping[WorkerId, WorkerProcess]) -> None:
        """Connect to these and to no others; a stream to a process that stays is kept."""
        for worker_id, stream in list(self._streams.items()):
            if processes.get(worker_id) is not stream.process:
                del self._streams[worker_id]
                stream.cut("it is no longer a member")
        for worker_id, process in processes.items():
            if worker_id not in self._streams:
                self._connect(worker_id, process)

    def send(self, worker_id: WorkerId, request: ExpertRequest) -> None:
        """Send a request as a frame."""
        if worker_id in self._streams:
            self._streams[worker_id].send(encode_request(request))

    def cut(self, worker_id: WorkerId) -> None:
        """Let the network to a worker fail for a moment."""
        if worker_id in self._streams:
            self._streams[worker_id].cut("the network failed")

    def close(self) -> None:
        """End all streams without a word."""
        for stream in self._streams.values():
            stream.close()
        self._streams.clear()

    def _connect(self, worker_id: WorkerId, process: WorkerProcess) -> None:
        self._streams[worker_id] = Stream(self._world, worker_id, process, self._heard)

    def _heard(self, event: StreamEvent) -> None:
        if isinstance(event, StreamBroken) and event.worker in self._streams:
            broken = self._streams[event.worker]
            self._world.later(RETRY_S, lambda: self._reconnect(event.worker, broken))
        self._sink(event)

    def _reconnect(self, worker_id: WorkerId, broken: Stream) -> None:
        if self._streams.get(worker_id) is broken and broken.process.is_alive:
            self._connect(worker_id, broken.process)
