"""A turn in two stages: the model reasons first, then the call that it must make is begun for it.

    prompt <|channel|>analysis<|message|> …reasoning… <|end|>         first sequence, ends with its first message
      … <|start|>assistant<|channel|>commentary to=functions.f …      second one, over the same tokens and the header

A header forced at once would cut the reasoning off, which models then miss in the arguments. To the engine the second
stage is a resume: all tokens since the prompt, forced ones too, count as output that was released before, so that
positions, penalties and `max_tokens` go on.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace

from cluster.clock import Clock
from cluster.engine.sequence import FinishReason, SequenceRequest, TokenEvent
from model.vocabulary import CALL, END, RETURN
from router.backend import Backend


@dataclass(frozen=True, slots=True)
class ForcedTokens:
    """Tokens of the answer that were not sampled."""

    token_ids: tuple[int, ...]


async def staged_events(
    backend: Backend, sequence: SequenceRequest, call_header: tuple[int, ...], timeout_s: float, clock: Clock
) -> AsyncGenerator[TokenEvent | ForcedTokens, None]:
    """Yield the events of both stages as those of one sequence, the header between them.

    Raises what `Backend.generate` raises; closing the generator aborts whichever stage runs.
    """
    deadline_s = clock.now_s() + timeout_s
    reasoning = replace(sequence, params=replace(sequence.params, stop_token_ids=(END, RETURN, CALL)))
    written: list[int] = []
    async with aclosing(backend.generate(reasoning, timeout_s)) as events:
        async for event in events:
            written += event.token_ids
            if event.finish_reason is not FinishReason.STOP:
                yield event
            if event.finish_reason not in (None, FinishReason.STOP):
                return
            if event.finish_reason is FinishReason.STOP:
                yield replace(event, finish_reason=None, stop_reason=None)
    released = (*written[:-1], END, *call_header)
    yield ForcedTokens(call_header)
    if len(released) >= sequence.params.max_tokens:
        yield TokenEvent(sequence.sequence_id, 0, len(released), (), finish_reason=FinishReason.LENGTH)
        return
    call = replace(
        sequence,
        sequence_id=f"{sequence.sequence_id}-call",
        prompt_ids=sequence.prompt_ids + released,
        num_released=len(released),
    )
    async with aclosing(backend.generate(call, max(0.0, deadline_s - clock.now_s()))) as events:
        async for event in events:
            yield event
