"""One choice: events to updates, stop strings on visible text only, logprobs with the text they belong to."""

import pytest

from cluster.engine.sequence import FinishReason, TokenEvent
from model.sampling_params import TokenLogprob
from router.choices import ChatChoice, StopFilter, TextChoice
from router.errors import ServerFailure, Unavailable
from router.harmony.deltas import ContentDelta, ReasoningDelta
from router.harmony.parse import HarmonyParser
from router.harmony.recipients import CallableTools
from router.requests import ChatUpdate, Finish, TextUpdate
from tests.router.fakes.hand_server import TOKENIZER
from tests.router.fakes.scripts import answer, call, turn


def events_of(
    ids: list[int], size: int = 1, last: FinishReason = FinishReason.STOP, has_logprobs: bool = True
) -> list[TokenEvent]:
    """Return the events of a sequence; a token's logprob is its place."""
    events: list[TokenEvent] = []
    for first in range(0, len(ids), size):
        some = tuple(ids[first : first + size])
        logprobs = tuple(TokenLogprob(one, float(first + at), ()) for at, one in enumerate(some) if has_logprobs)
        is_last = first + size >= len(ids)
        reason = last if is_last else None
        stop = some[-1] if reason is FinishReason.STOP else None
        events.append(TokenEvent("s", 0, first, some, logprobs, (), reason, stop))
    return events


def chat(
    ids: list[int], stops: tuple[str, ...] = (), size: int = 1, last: FinishReason = FinishReason.STOP
) -> tuple[list[ChatUpdate], ChatChoice]:
    tools = CallableTools(frozenset({"f"}))
    choice = ChatChoice(0, HarmonyParser(TOKENIZER.token_bytes, tools), stops)
    updates: list[ChatUpdate] = []
    for event in events_of(ids, size, last):
        update = choice.on(event)
        updates += [update] if update is not None else []
        if choice.finish is not None:
            break
    return updates, choice


def text_choice(ids: list[int], stops: tuple[str, ...] = (), size: int = 1) -> tuple[list[TextUpdate], TextChoice]:
    choice = TextChoice(0, TOKENIZER, stops)
    updates: list[TextUpdate] = []
    for event in events_of(ids, size, FinishReason.LENGTH):
        update = choice.on(event)
        updates += [update] if update is not None else []
        if choice.finish is not None:
            break
    return updates, choice


def content(updates: list[ChatUpdate]) -> str:
    return "".join(delta.text for update in updates for delta in update.deltas if isinstance(delta, ContentDelta))


def reasoning(updates: list[ChatUpdate]) -> str:
    return "".join(delta.text for update in updates for delta in update.deltas if isinstance(delta, ReasoningDelta))


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_a_stop_string_ends_what_is_visible_and_not_the_reasoning(size: int) -> None:
    ids = answer("One, two, three.", reasoning="two is a number")

    updates, choice = chat(ids, ("two",), size)

    assert content(updates) == "One, "
    assert reasoning(updates) == "two is a number"
    assert choice.finish is Finish.STOP


@pytest.mark.parametrize("size", [1, 2, 5, 1000])
def test_tokens_count_up_to_the_one_that_completes_the_stop_string(size: int) -> None:
    ids = answer("One, two, three.")
    up_to_two = len(answer("One, two")) - 1

    assert chat(ids, ("two",), size)[1].num_tokens == up_to_two


@pytest.mark.parametrize("stops", [(), ("never",), ("thr",), ("One",), (".",), ("e, t",)])
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_logprobs_are_those_of_the_visible_tokens(stops: tuple[str, ...], size: int) -> None:
    """With the visible text 'One, two' cut anywhere, tokens shown at least in part are reported, in order, once."""
    ids = answer("One, two, three.")
    start = len(answer("")) - 1
    updates, _ = chat(ids, stops, size)
    shown = content(updates)

    places = [int(one.logprob) for update in updates for one in update.logprobs]

    expected: list[int] = []
    num_chars = 0
    for at, token_id in enumerate(TOKENIZER.encode("One, two, three.")):
        if num_chars < len(shown):
            expected.append(start + at)
        num_chars += len(TOKENIZER.token_text(token_id))
    assert places == expected


@pytest.mark.parametrize(
    ("ids", "last", "expected"),
    [
        (answer("x"), FinishReason.STOP, Finish.STOP),
        (answer("x")[:-1], FinishReason.LENGTH, Finish.LENGTH),
        (call("f", "{}"), FinishReason.STOP, Finish.TOOL_CALLS),
        (call("f", "{}")[:-2], FinishReason.LENGTH, Finish.LENGTH),
        (turn("<|channel|>analysis<|message|>Hm.<|return|>"), FinishReason.STOP, Finish.STOP),
        (turn("I'm sorry.<|return|>"), FinishReason.STOP, Finish.STOP),
    ],
)
def test_the_finish_is_what_happened(ids: list[int], last: FinishReason, expected: Finish) -> None:
    updates, choice = chat(ids, last=last)

    assert choice.finish is expected
    assert updates[-1].finish is expected
    assert [update.finish for update in updates[:-1]] == [None] * (len(updates) - 1)


def test_text_held_back_comes_when_the_message_ends() -> None:
    updates, _ = chat(answer("tw"), ("two",))

    assert content(updates) == "tw"


def test_a_failed_sequence_is_an_error_without_its_inside() -> None:
    choice = ChatChoice(0, HarmonyParser(TOKENIZER.token_bytes, CallableTools()), ())

    with pytest.raises(ServerFailure) as caught:
        choice.on(TokenEvent("s", 0, 0, (), finish_reason=FinishReason.ERROR, error="10.0.0.1 broke"))
    assert "10.0.0.1" not in caught.value.message
    for reason in (FinishReason.ABORT, FinishReason.UNAVAILABLE):
        with pytest.raises(Unavailable) as lost:
            choice.on(TokenEvent("s", 0, 0, (), finish_reason=reason, error="WorkerLost: 10.0.0.1"))
        assert lost.value.retry_after_s == 1
        assert "10.0.0.1" not in lost.value.message


@pytest.mark.parametrize("size", [1, 2, 1000])
def test_a_completion_has_text_and_no_control_tokens(size: int) -> None:
    ids = turn("Hi 😀<|channel|> there<|return|>")

    updates, choice = text_choice(ids, size=size)

    assert "".join(update.text for update in updates) == "Hi 😀 there"
    assert [one for update in updates for one in update.token_ids] == TOKENIZER.encode("Hi 😀") + TOKENIZER.encode(
        " there"
    )
    assert choice.num_tokens == len(ids)


def test_a_completion_stops_before_its_stop_string() -> None:
    updates, choice = text_choice(TOKENIZER.encode("One, two, three."), ("two",))

    assert "".join(update.text for update in updates) == "One, "
    assert choice.finish is Finish.STOP


def test_a_stop_id_of_the_client_is_not_part_of_the_text() -> None:
    ids = TOKENIZER.encode("One two")
    choice = TextChoice(0, TOKENIZER, ())

    updates = [choice.on(event) for event in events_of(ids)]

    assert "".join(update.text for update in updates if update is not None) == "One"


def test_half_a_character_at_the_end_is_a_replacement() -> None:
    updates, _ = text_choice(TOKENIZER.encode("ok🫨")[:-1])

    assert "".join(update.text for update in updates) == "ok\ufffd"


def test_a_filter_without_stops_holds_nothing() -> None:
    stops = StopFilter(())

    assert stops.feed("abc", (1,)) == ("abc", (1,))
    assert stops.flush() == ("", ())
