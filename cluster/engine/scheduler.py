"""What the next step computes. A pure function: it reads sequences and counts, and changes nothing.

There is no prefill phase and no decode phase: a sequence has tokens known and tokens computed, and a step lets it
catch up, within one budget of rows. Running sequences come first, in order of rank, and each gets one row before any
gets more, so that a long prompt does not hold up those that only add a token. If a row finds no block, the sequence
of the highest rank gives all of its own back and computes them again later (it keeps its tokens). What is left of the
budget admits waiting sequences, strictly in the order of their turns.
"""

from collections.abc import Collection, Iterable
from collections.abc import Sequence as Ordered
from dataclasses import dataclass, field

from cluster.engine.blocks import BlockCount, BlockGeometry
from cluster.engine.prefix import Cache, CachedPrefix, NoCache
from cluster.engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class StepLimits:
    """What a step may take."""

    max_step_tokens: int
    max_running_sequences: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """The rows that a sequence brings to a step: its tokens start .. start + num_tokens - 1, and a draft."""

    sequence: Sequence
    start: int
    num_tokens: int
    draft: tuple[int, ...] = ()
    """Tokens that may come after all that is known; see `speculate`."""

    @property
    def stop(self) -> int:
        """Return the position after the last known token's row."""
        return self.start + self.num_tokens

    @property
    def num_rows(self) -> int:
        """Return the rows, drafted ones included."""
        return self.num_tokens + len(self.draft)

    @property
    def num_samples(self) -> int:
        """Return how many rows, the last ones, give a token: none before all that is known is computed."""
        return 1 + len(self.draft) if self.stop == self.sequence.num_known else 0


@dataclass(frozen=True, slots=True)
class Schedule:
    """A step, and what must change before it can run: first preempt, then admit."""

    preempted: tuple[Sequence, ...]
    admitted: tuple[tuple[Sequence, int], ...]
    """Each with the blocks at its beginning that are computed already."""
    chunks: tuple[Chunk, ...]
    budget: int
    """Rows that could still be added."""
    free: BlockCount
    """Blocks that nobody takes in this step."""


def schedule(
    running: Ordered[Sequence],
    waiting: Collection[Sequence],
    free: BlockCount,
    geometry: BlockGeometry,
    limits: StepLimits,
    cache: Cache | None = None,
) -> Schedule:
    """Return the next step for sequences `running`, by rank, and `waiting`, by turn, with `free` blocks left.

    The chunk list is empty only if nothing runs and nothing waits.
    """
    draft = _Draft(geometry, cache or NoCache(geometry), free, limits.max_step_tokens, list(running))
    for sequence in running:
        draft.give_first_row(sequence)
    for sequence in draft.kept:
        draft.give_more_rows(sequence)
    if waiting and not draft.preempted:
        draft.admit(waiting, limits.max_running_sequences)
    order = [*draft.kept, *(sequence for sequence, _ in draft.admitted)]
    chunks = (Chunk(sequence, draft.start(sequence), draft.rows.get(sequence.arrival, 0)) for sequence in order)
    return Schedule(
        tuple(draft.preempted),
        tuple(draft.admitted),
        tuple(chunk for chunk in chunks if chunk.num_tokens > 0),
        draft.budget,
        draft.free,
    )


@dataclass(slots=True)
class _Draft:
    """A schedule being written."""

    geometry: BlockGeometry
    cache: Cache
    free: BlockCount
    budget: int
    kept: list[Sequence]
    """Running sequences that go on, by rank."""
    preempted: list[Sequence] = field(default_factory=list[Sequence])
    admitted: list[tuple[Sequence, int]] = field(default_factory=list[tuple[Sequence, int]])
    rows: dict[int, int] = field(default_factory=dict[int, int])
    """Rows given, by the sequence's arrival number."""
    starts: dict[int, int] = field(default_factory=dict[int, int])
    """First rows of sequences whose beginning is computed already, by arrival number."""

    def start(self, sequence: Sequence) -> int:
        """Return the position of a sequence's first row."""
        return self.starts.get(sequence.arrival, sequence.num_computed)

    def give_first_row(self, sequence: Sequence) -> None:
        """Give a running sequence one row, at the cost of the last in rank, which may be itself."""
        if self.budget == 0 or sequence in self.preempted:
            return
        while not self.free.covers(self.geometry.needed(sequence.num_computed, 1)):
            victim = self.kept.pop()
            self.preempted.append(victim)
            self.free = self.free.plus(self.cache.held_alone(victim))
            if victim is sequence:
                return
        self._give(sequence, 1)

    def give_more_rows(self, sequence: Sequence) -> None:
        """Let a sequence that has its first row catch up as far as budget and blocks allow."""
        given = self.rows.get(sequence.arrival, 0)
        if given:
            self._give(sequence, self._rows_within_reach(sequence, given))

    def admit(self, waiting: Iterable[Sequence], max_running: int) -> None:
        """Start waiting sequences, in order, while there is room for all that is known of them."""
        reserved = self._outstanding()
        for sequence in waiting:
            has_slot = len(self.kept) + len(self.admitted) < max_running
            if self.budget == 0 or not has_slot:
                return
            prefix = self.cache.find(sequence)
            wanted = self.geometry.settled(sequence.num_known + 1).minus(prefix.num_held)
            if not self.free.minus(reserved).covers(wanted):
                return
            self.admitted.append((sequence, prefix.num_blocks))
            before = self.free
            self._share(sequence, prefix)
            self._give(sequence, self._rows_within_reach(sequence, 0))
            reserved = reserved.plus(_at_least_zero(wanted.minus(before.minus(self.free))))

    def _share(self, sequence: Sequence, prefix: CachedPrefix) -> None:
        """Begin a sequence after what is computed of it; blocks that nobody held are no longer free."""
        start = prefix.num_blocks * self.geometry.block_tokens
        self.starts[sequence.arrival] = start
        self.free = self.free.minus(self.geometry.held(start).minus(prefix.num_held))

    def _give(self, sequence: Sequence, num_rows: int) -> None:
        given = self.rows.get(sequence.arrival, 0)
        self.free = self.free.minus(self.geometry.needed(self.start(sequence) + given, num_rows))
        self.rows[sequence.arrival] = given + num_rows
        self.budget -= num_rows

    def _rows_within_reach(self, sequence: Sequence, given: int) -> int:
        end = self.start(sequence) + given
        return min(sequence.num_known - end, self.budget, self.geometry.rows_that_fit(end, self.free))

    def _outstanding(self) -> BlockCount:
        """Return the blocks that the running sequences still need for what is known of them, and one token more."""
        total = BlockCount(0, 0)
        for sequence in self.kept:
            end = sequence.num_computed + self.rows.get(sequence.arrival, 0)
            wanted = self.geometry.settled(sequence.num_known + 1)
            total = total.plus(_at_least_zero(wanted.minus(self.geometry.held(end))))
        return total


def _at_least_zero(count: BlockCount) -> BlockCount:
    return BlockCount(max(0, count.full), max(0, count.sliding))
