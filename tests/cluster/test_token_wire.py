"""Token events survive the wire bit for bit."""

import pytest

from cluster.engine.sequence import FinishReason, TokenEvent
from cluster.token_wire import decode_step, encode_step
from model.sampling_params import TokenLogprob
from protos import engine_pb2 as pb

EVENTS = [
    TokenEvent("plain", 0, 0, (1, 201_087)),
    TokenEvent("later attempt", 3, 17, (0,), num_cached=128),
    TokenEvent(
        "logprobs", 0, 2, (5,), logprobs=(TokenLogprob(5, -0.1 - 1e-17, ((5, -0.1), (6, -2.5))),), digests=("ab12",)
    ),
    TokenEvent("no alternatives", 0, 2, (5,), logprobs=(TokenLogprob(5, -1 / 3, ()),)),
    TokenEvent("stopped by id 0", 0, 9, (0,), finish_reason=FinishReason.STOP, stop_reason=0),
    TokenEvent("stopped by text", 0, 9, (4,), finish_reason=FinishReason.STOP, stop_reason="\nEnd"),
    TokenEvent("length", 0, 9, (4,), finish_reason=FinishReason.LENGTH),
    TokenEvent("aborted", 0, 9, (), finish_reason=FinishReason.ABORT),
    TokenEvent("failed", 0, 9, (), finish_reason=FinishReason.ERROR, error=""),
    TokenEvent("lost", 0, 9, (), finish_reason=FinishReason.UNAVAILABLE, error="WorkerLost: worker-3"),
    TokenEvent("refused", 0, 9, (), finish_reason=FinishReason.REFUSED, error="guided_regex: unclosed group"),
]


def over_the_wire(events: list[TokenEvent]) -> list[TokenEvent]:
    return decode_step(pb.EngineMessage.FromString(encode_step(events).SerializeToString()).step)


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.sequence_id)
def test_an_event_arrives_as_it_was_sent(event: TokenEvent) -> None:
    assert over_the_wire([event]) == [event]


def test_every_finish_reason_has_a_place_on_the_wire() -> None:
    assert {event.finish_reason for event in EVENTS} == {None, *FinishReason}


def test_a_step_keeps_the_order_of_its_events() -> None:
    assert over_the_wire(EVENTS) == EVENTS


def test_a_token_costs_a_few_bytes() -> None:
    """64 streams of one token each: the ids of the sequences are most of the message."""
    step = [TokenEvent(f"chatcmpl-{index:024d}", 0, 1000, (199_999,)) for index in range(64)]
    assert len(encode_step(step).SerializeToString()) < 64 * 56


def test_the_wait_in_the_queue_crosses_the_wire_too() -> None:
    """It is no part of what makes two events equal, so that it is looked at by itself."""
    (event,) = over_the_wire([TokenEvent("waited", 0, 0, (1,), queued_s=0.1 + 1e-17)])
    assert event.queued_s == 0.1 + 1e-17
