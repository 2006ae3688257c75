"""A sequence's refusal reaches the edge as the error that it was: it decides whether trying again can help."""

import pytest

from cluster.engine.sequence import FinishReason
from cluster.errors import ContextOverflow, EngineError, EngineStopped, QueueFull, TokenUnknown
from cluster.sequence_end import SequenceEnd


@pytest.mark.parametrize("kind", [QueueFull, ContextOverflow, TokenUnknown, EngineStopped, EngineError])
def test_a_refusal_is_the_same_error_at_the_edge(kind: type[EngineError]) -> None:
    error = SequenceEnd.refused(kind("why")).error
    assert (type(error), str(error)) == (kind, "why")


def test_a_sequence_that_ran_has_no_error() -> None:
    assert SequenceEnd(FinishReason.STOP).error is None
