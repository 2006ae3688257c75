"""What holds for any tokens: the parser never raises, loses no text, is linear in the tokens."""

import random
import time

import pytest

from model.vocabulary import CALL, CHANNEL, CONSTRAIN, END, END_OF_TEXT, MESSAGE, NUM_RANKS, RETURN, START, VOCAB_SIZE
from router.harmony.deltas import CallBegun, Delta, MessageBegun, MessageEnded
from router.harmony.parse import MAX_HEADER_TOKENS, HarmonyParser
from router.harmony.recipients import CallableTools
from tests.router.harmony.harmony_text import NOTHING, TOKENIZER, WEATHER, deltas_of, ids_of, messages_of

CONTROL = (START, CHANNEL, CONSTRAIN, MESSAGE, END, CALL, RETURN, END_OF_TEXT)
WORDS = (
    "assistant", "analysis", "commentary", "final", "user", " to=functions.get_weather", " to=python",
    " json", " code", "functions.get_time", " to=", " to=assistant", "The answer", " is 4.", "😀", "é", "\n\n", " ",
    '{"a":', "1}", "漢字",
)  # fmt: skip
TOOLS = (NOTHING, WEATHER, CallableTools(frozenset({"get_weather"}), has_python=True))
CASES = 4000


def random_soup(rng: random.Random) -> list[int]:
    """Return tokens of any kind: control tokens, words of headers, halves of characters, reserved ids."""
    ids: list[int] = []
    for _ in range(rng.randint(0, 40)):
        kind = rng.random()
        if kind < 0.35:
            ids.append(rng.choice(CONTROL))
        elif kind < 0.8:
            ids += TOKENIZER.encode(rng.choice(WORDS))
        elif kind < 0.95:
            ids.append(rng.randrange(NUM_RANKS))
        else:
            ids.append(rng.randrange(NUM_RANKS, VOCAB_SIZE))
    return ids


def mutated_turn(rng: random.Random) -> list[int]:
    """Return harmony with a few tokens dropped, doubled, swapped or replaced."""
    ids = ids_of(
        "<|channel|>analysis<|message|>Let me think 😀.<|end|><|start|>assistant<|channel|>commentary<|message|>Wait."
        "<|end|><|start|>assistant<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>"
        '{"city":"Oslo"}<|end|><|start|>assistant<|channel|>final<|message|>It is sunny.<|return|>'
    )
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(ids))
        ids[at : at + 1] = rng.choice(([], [ids[at]] * 2, [rng.choice(CONTROL)], [ids[at], rng.choice(CONTROL)]))
    return ids


def corpus() -> list[tuple[list[int], CallableTools]]:
    """Return the same cases in every run."""
    rng = random.Random(7)
    return [(rng.choice((random_soup, mutated_turn))(rng), rng.choice(TOOLS)) for _ in range(CASES)]


def test_it_never_raises_and_every_message_begins_and_ends_once() -> None:
    for ids, tools in corpus():
        deltas = deltas_of(ids, tools)

        begun = [delta.message for delta in deltas if isinstance(delta, MessageBegun)]
        ended = [delta.message for delta in deltas if isinstance(delta, MessageEnded)]
        assert begun == ended == list(range(len(begun))), TOKENIZER.decode(ids)
        calls = [delta.call for delta in deltas if isinstance(delta, CallBegun)]
        assert calls == list(range(len(calls))), TOKENIZER.decode(ids)
        assert _in_order(deltas), TOKENIZER.decode(ids)


def test_text_comes_out_exactly_once_and_in_order() -> None:
    """Positions of text tokens rise; a token behind `<|message|>` is never lost."""
    for ids, tools in corpus():
        positions = [at for delta in deltas_of(ids, tools) for at in getattr(delta, "positions", ())]

        assert positions == sorted(set(positions)), TOKENIZER.decode(ids)
        assert set(_text_after_message(ids)) <= set(positions), TOKENIZER.decode(ids)


def test_pushing_one_by_one_or_all_at_once_is_the_same() -> None:
    for ids, tools in corpus()[:500]:
        parser = HarmonyParser(TOKENIZER.token_bytes, tools)
        one_by_one = [delta for token_id in ids for delta in parser.push(token_id)] + parser.finish()

        assert one_by_one == deltas_of(ids, tools)


@pytest.mark.parametrize("text", ["😀", "👩‍👩‍👧‍👦", "漢字仮名", "é̂", "\u200d\u200d", "𝔘𝔫𝔦"])
def test_characters_split_over_tokens_come_whole(text: str) -> None:
    deltas = deltas_of([*ids_of("<|channel|>final<|message|>"), *TOKENIZER.encode(text * 5), RETURN])

    assert messages_of(deltas) == [f"answer: {text * 5} | return"]
    assert not any("\ufffd" in getattr(delta, "text", "") for delta in deltas)


def test_a_character_that_is_never_completed_becomes_one_replacement() -> None:
    half = next(ids for ids in (TOKENIZER.encode("🫨")[:-1],) if ids)

    assert messages_of(deltas_of([*ids_of("<|channel|>final<|message|>ok"), *half, RETURN])) == [
        "answer: ok\ufffd | return"
    ]


def test_a_header_of_any_length_ends() -> None:
    ids = [*ids_of("<|channel|>final"), *TOKENIZER.encode(" word" * (3 * MAX_HEADER_TOKENS))]
    parser = HarmonyParser(TOKENIZER.token_bytes, WEATHER)

    deltas = parser.push_all(ids)

    assert messages_of(deltas) == ["answer: " + ("word" + " word" * (3 * MAX_HEADER_TOKENS - 1))]


@pytest.mark.parametrize(
    "unit",
    [
        pytest.param("<|channel|>", id="markers"),
        pytest.param("<|start|>assistant<|channel|>final<|message|>x<|end|>", id="messages"),
        pytest.param("<|channel|>analysis to=functions.get_weather", id="headers"),
        pytest.param("assistant ", id="header words"),
        pytest.param("a 😀", id="text"),
    ],
)
def test_time_is_linear_in_the_number_of_tokens(unit: str) -> None:
    """Sixteen times the tokens take at most about sixteen times as long; quadratic would be 256 times."""
    ids = ids_of(unit) * 300
    short_s, long_s = (min(_seconds(ids * times) for _ in range(3)) for times in (1, 16))

    assert long_s < 16 * 4 * short_s


def _seconds(ids: list[int]) -> float:
    start_s = time.perf_counter()
    deltas_of(ids)
    return time.perf_counter() - start_s


def _in_order(deltas: list[Delta]) -> bool:
    """Return whether every delta lies between the beginning and the end of its message."""
    is_open: int | None = None
    for delta in deltas:
        if isinstance(delta, MessageBegun):
            if is_open is not None:
                return False
            is_open = delta.message
        if delta.message != is_open:
            return False
        if isinstance(delta, MessageEnded):
            is_open = None
    return is_open is None


def _text_after_message(ids: list[int]) -> list[int]:
    """Return the places of text tokens that stand behind a `<|message|>`, with no other control token between."""
    places: list[int] = []
    is_text = False
    for place, token_id in enumerate(ids):
        if token_id >= NUM_RANKS:
            is_text = token_id == MESSAGE or (is_text and token_id not in CONTROL)
        elif is_text:
            places.append(place)
    return places
