"""Which edge reads which sequence: the token stream's book-keeping as a state machine without I/O.

An edge is attached while its stream is up. When the stream breaks, the sequences of that attachment have lost events
for good, and their edge fails or resumes them; here they stay open until the edge ends them, or until it has been gone
so long that it must be dead. Whoever owns the engine aborts the sequences that `attach` and `expire` return.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from cluster.engine.sequence import TokenEvent
from cluster.errors import EngineStopped


@dataclass(slots=True)
class _Edge:
    """An edge that has attached at least once and is not forgotten yet."""

    attachment: int
    gone_since_s: float | None = None
    sequences: dict[str, int] = field(default_factory=dict[str, int])
    """Open sequences and the attachment that each of them was opened under."""


class TokenRoutes:
    """Sequences by edge, and edges by attachment. Not thread-safe: its owner holds a lock."""

    def __init__(self, timeout_s: float) -> None:
        """Forget an edge once it has been gone for `timeout_s`."""
        self._timeout_s = timeout_s
        self._edges: dict[str, _Edge] = {}
        self._edge_of: dict[str, str] = {}
        self._attempt_of: dict[str, int] = {}
        self._next_attachment = 1

    def attach(self, edge_id: str) -> tuple[int, list[str]]:
        """Return a new attachment, and the sequences of earlier ones, which have lost events and must be aborted."""
        attachment, self._next_attachment = self._next_attachment, self._next_attachment + 1
        edge = self._edges.setdefault(edge_id, _Edge(attachment))
        edge.attachment = attachment
        edge.gone_since_s = None
        return attachment, list(edge.sequences)

    def detach(self, edge_id: str, attachment: int, now_s: float) -> None:
        """Note that the stream of an attachment is gone; a newer attachment of the same edge is not touched."""
        edge = self._edges.get(edge_id)
        if edge is not None and edge.attachment == attachment and edge.gone_since_s is None:
            edge.gone_since_s = now_s

    def open(self, sequence_id: str, attempt: int, edge_id: str) -> None:
        """Route the events of an attempt at a sequence to an edge; an older attempt of it gets no more.

        Raises EngineStopped if that edge is not attached, or the attempt is not newer than the one that is open.
        """
        edge = self._edges.get(edge_id)
        if edge is None or edge.gone_since_s is not None:
            raise EngineStopped(f"edge {edge_id} has no token stream here; sequence {sequence_id} was not admitted")
        current = self._attempt_of.get(sequence_id)
        if current is not None and current >= attempt:
            raise EngineStopped(f"sequence {sequence_id} is open here already, at attempt {current}")
        self._forget(sequence_id)
        edge.sequences[sequence_id] = edge.attachment
        self._edge_of[sequence_id] = edge_id
        self._attempt_of[sequence_id] = attempt

    def close(self, sequence_id: str, attempt: int) -> None:
        """Forget an attempt at a sequence; one that is not open any more is no matter."""
        if self._attempt_of.get(sequence_id) == attempt:
            self._forget(sequence_id)

    def route(self, events: Iterable[TokenEvent]) -> dict[int, list[TokenEvent]]:
        """Return the events by the attachment that is to carry them; those that nobody waits for are left out."""
        by_attachment: dict[int, list[TokenEvent]] = defaultdict(list)
        for event in events:
            attachment = self._attachment_of(event)
            if attachment is not None:
                by_attachment[attachment].append(event)
        return dict(by_attachment)

    def expire(self, now_s: float) -> list[str]:
        """Forget the edges that stayed gone, and return their sequences, which must be aborted."""
        lost: list[str] = []
        for edge_id, edge in list(self._edges.items()):
            if edge.gone_since_s is None or now_s - edge.gone_since_s < self._timeout_s:
                continue
            lost.extend(edge.sequences)
            for sequence_id in list(edge.sequences):
                self._forget(sequence_id)
            del self._edges[edge_id]
        return lost

    def check_integrity(self) -> None:
        """Assert that the two directions of the book agree."""
        by_edge = {sequence: edge_id for edge_id, edge in self._edges.items() for sequence in edge.sequences}
        assert by_edge == self._edge_of, (by_edge, self._edge_of)
        assert set(self._attempt_of) == set(self._edge_of), (self._attempt_of, self._edge_of)

    @property
    def num_open(self) -> int:
        """Return how many sequences are open."""
        return len(self._edge_of)

    def _forget(self, sequence_id: str) -> None:
        self._attempt_of.pop(sequence_id, None)
        edge_id = self._edge_of.pop(sequence_id, None)
        if edge_id is not None:
            del self._edges[edge_id].sequences[sequence_id]

    def _attachment_of(self, event: TokenEvent) -> int | None:
        edge_id = self._edge_of.get(event.sequence_id)
        if edge_id is None or self._attempt_of[event.sequence_id] != event.attempt:
            return None
        edge = self._edges[edge_id]
        is_current = edge.gone_since_s is None and edge.sequences[event.sequence_id] == edge.attachment
        return edge.attachment if is_current else None
