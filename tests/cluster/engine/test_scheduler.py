"""The schedule of one step, worked out by hand: blocks of 4 tokens, a window of 6."""

from collections.abc import Iterable

from cluster.engine.blocks import BlockCount, BlockGeometry
from cluster.engine.scheduler import Schedule, StepLimits, schedule
from cluster.engine.sequence import Sequence
from tests.cluster.engine.driver import request

GEOMETRY = BlockGeometry(block_tokens=4, window=6)
MANY = BlockCount(100, 100)


def _sequence(arrival: int, num_known: int, num_computed: int = 0, priority: int = 0) -> Sequence:
    sequence = Sequence(request(f"s{arrival}", [1] * num_known, priority=priority), arrival)
    sequence.num_computed = num_computed
    return sequence


def _schedule(
    running: list[Sequence], waiting: list[Sequence], free: BlockCount = MANY, max_rows: int = 16, max_running: int = 8
) -> Schedule:
    return schedule(running, waiting, free, GEOMETRY, StepLimits(max_rows, max_running))


def _rows(step: Schedule) -> dict[str, tuple[int, int]]:
    """Return (first row, number of rows) by sequence."""
    return {chunk.sequence.request.sequence_id: (chunk.start, chunk.num_tokens) for chunk in step.chunks}


def _names(sequences: Iterable[Sequence]) -> list[str]:
    return [sequence.request.sequence_id for sequence in sequences]


def _admitted(step: Schedule) -> list[str]:
    return _names(sequence for sequence, _ in step.admitted)


def test_nothing_gives_an_empty_step() -> None:
    assert _schedule([], []) == Schedule((), (), (), 16, MANY)


def test_a_long_prompt_is_cut_to_the_budget_and_does_not_sample() -> None:
    step = _schedule([], [_sequence(0, 40)])
    assert _rows(step) == {"s0": (0, 16)}
    assert step.chunks[0].num_samples == 0


def test_the_last_chunk_of_a_prompt_samples() -> None:
    step = _schedule([_sequence(0, 40, num_computed=32)], [])
    assert _rows(step) == {"s0": (32, 8)}
    assert step.chunks[0].num_samples == 1


def test_every_running_sequence_gets_a_row_before_a_prompt_gets_more() -> None:
    """The older prompt would take the whole budget of 16; the two that decode get their rows first."""
    running = [_sequence(0, 40, 8), _sequence(1, 10, 9), _sequence(2, 12, 11)]
    assert _rows(_schedule(running, [])) == {"s0": (8, 14), "s1": (9, 1), "s2": (11, 1)}


def test_what_is_left_of_the_budget_admits_in_order() -> None:
    step = _schedule([_sequence(0, 10, 9)], [_sequence(1, 8), _sequence(2, 30), _sequence(3, 2)])
    assert _rows(step) == {"s0": (9, 1), "s1": (0, 8), "s2": (0, 7)}
    assert _admitted(step) == ["s1", "s2"]


def test_no_more_run_than_the_limit_says() -> None:
    step = _schedule([_sequence(0, 10, 9)], [_sequence(1, 2), _sequence(2, 2)], max_running=2)
    assert _admitted(step) == ["s1"]


def test_the_first_in_the_queue_is_not_overtaken_by_one_that_would_fit() -> None:
    """40 tokens and one more need 11 blocks; 10 are free."""
    step = _schedule([_sequence(0, 10, 9)], [_sequence(1, 40), _sequence(2, 2)], BlockCount(10, 10))
    assert step.admitted == ()


def test_blocks_that_running_sequences_still_need_are_not_given_away() -> None:
    """s0 holds 2 blocks and needs 41 tokens' 11 in all: of 12 free ones only 3 are left, for 12 tokens."""
    running = [_sequence(0, 40, 8)]
    assert _admitted(_schedule(running, [_sequence(1, 11)], BlockCount(12, 100), max_rows=40)) == ["s1"]
    assert _admitted(_schedule(running, [_sequence(1, 12)], BlockCount(12, 100), max_rows=40)) == []


def test_two_are_not_admitted_into_the_room_of_one() -> None:
    """Each takes 2 blocks for its 8 tokens and will need a third for the next: 5 are too few for both, 6 are not."""
    waiting = [_sequence(0, 8), _sequence(1, 8)]
    assert _admitted(_schedule([], waiting, BlockCount(5, 100))) == ["s0"]
    assert _admitted(_schedule([], waiting, BlockCount(6, 100))) == ["s0", "s1"]


def test_without_blocks_the_youngest_is_preempted_and_nobody_admitted() -> None:
    """s0 needs a fourth block; s2 gives back the 5 that it holds for 20 computed tokens, room enough for s3."""
    running = [_sequence(0, 13, 12), _sequence(1, 8, 7), _sequence(2, 21, 20)]
    step = _schedule(running, [_sequence(3, 1)], BlockCount(0, 5))
    assert _names(step.preempted) == ["s2"]
    assert _rows(step) == {"s0": (12, 1), "s1": (7, 1)}
    assert step.admitted == ()


def test_a_lack_of_sliding_blocks_preempts_too() -> None:
    step = _schedule([_sequence(0, 13, 12), _sequence(1, 6, 5)], [], BlockCount(5, 0))
    assert _names(step.preempted) == ["s1"]


def test_the_lowest_priority_is_preempted_before_the_youngest() -> None:
    """By rank: s5 (priority 0), s1 (priority 1), s0 (priority 2)."""
    running = [_sequence(5, 13, 12), _sequence(1, 6, 5, priority=1), _sequence(0, 6, 5, priority=2)]
    assert _names(_schedule(running, [], BlockCount(0, 5)).preempted) == ["s0"]


def test_the_last_in_rank_preempts_itself() -> None:
    step = _schedule([_sequence(0, 8, 7), _sequence(1, 13, 12)], [], BlockCount(0, 0))
    assert _names(step.preempted) == ["s1"]
    assert _rows(step) == {"s0": (7, 1)}


def test_rows_shrink_to_the_blocks_before_anyone_is_preempted() -> None:
    """12 more rows are wanted; 6 computed tokens leave 2 places in the second block and one block of 4 is free."""
    step = _schedule([_sequence(0, 18, 6), _sequence(1, 3, 2)], [], BlockCount(1, 1))
    assert step.preempted == ()
    assert _rows(step) == {"s0": (6, 6), "s1": (2, 1)}
