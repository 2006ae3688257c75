"""Token events as messages of `expertmesh.engine.v1`, and back: the same values, no decisions."""

from collections.abc import Iterable

from cluster.engine.sequence import FinishReason, TokenEvent
from model.sampling_params import TokenLogprob
from protos import engine_pb2 as pb

PROTOCOL = 3
"""Raised when the meaning of the messages changes; an edge and an engine of different ones refuse each other."""

_REASON_TO_WIRE = {
    None: pb.FINISH_REASON_UNSPECIFIED,
    FinishReason.STOP: pb.FINISH_REASON_STOP,
    FinishReason.LENGTH: pb.FINISH_REASON_LENGTH,
    FinishReason.ABORT: pb.FINISH_REASON_ABORT,
    FinishReason.ERROR: pb.FINISH_REASON_ERROR,
    FinishReason.UNAVAILABLE: pb.FINISH_REASON_UNAVAILABLE,
    FinishReason.REFUSED: pb.FINISH_REASON_REFUSED,
}
_REASON_FROM_WIRE = {wire: reason for reason, wire in _REASON_TO_WIRE.items()}


def encode_step(events: Iterable[TokenEvent]) -> pb.EngineMessage:
    """Return the one message that carries what a step gave the sequences of one edge."""
    return pb.EngineMessage(step=pb.Step(events=[_encode_event(event) for event in events]))


def decode_step(step: pb.Step) -> list[TokenEvent]:
    """Return the events of a step, in the order they were sent."""
    return [_decode_event(event) for event in step.events]


def _encode_event(event: TokenEvent) -> pb.TokenEvent:
    message = pb.TokenEvent(
        sequence_id=event.sequence_id,
        attempt=event.attempt,
        index=event.index,
        token_ids=event.token_ids,
        digests=event.digests,
        finish_reason=_REASON_TO_WIRE[event.finish_reason],
        error=event.error,
        num_cached=event.num_cached,
        queued_s=event.queued_s,
    )
    if event.logprobs:
        message.logprobs.extend(_encode_logprob(logprob) for logprob in event.logprobs)
    if isinstance(event.stop_reason, int):
        message.stop_token_id = event.stop_reason
    elif event.stop_reason is not None:
        message.stop_string = event.stop_reason
    return message


def _encode_logprob(logprob: TokenLogprob) -> pb.TokenLogprob:
    return pb.TokenLogprob(
        token_id=logprob.token_id,
        logprob=logprob.logprob,
        top_ids=[token_id for token_id, _ in logprob.top],
        top_logprobs=[value for _, value in logprob.top],
    )


def _decode_event(message: pb.TokenEvent) -> TokenEvent:
    return TokenEvent(
        sequence_id=message.sequence_id,
        attempt=message.attempt,
        index=message.index,
        token_ids=tuple(message.token_ids),
        logprobs=tuple(_decode_logprob(logprob) for logprob in message.logprobs),
        digests=tuple(message.digests),
        finish_reason=_REASON_FROM_WIRE[message.finish_reason],
        stop_reason=_decode_stop_reason(message),
        error=message.error if message.HasField("error") else None,
        num_cached=message.num_cached,
        queued_s=message.queued_s,
    )


def _decode_stop_reason(message: pb.TokenEvent) -> int | str | None:
    match message.WhichOneof("stop_reason"):
        case "stop_token_id":
            return message.stop_token_id
        case "stop_string":
            return message.stop_string
        case _:
            return None


def _decode_logprob(message: pb.TokenLogprob) -> TokenLogprob:
    return TokenLogprob(
        token_id=message.token_id,
        logprob=message.logprob,
        top=tuple(zip(message.top_ids, message.top_logprobs, strict=True)),
    )
