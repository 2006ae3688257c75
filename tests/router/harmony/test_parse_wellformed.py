"""The parser on harmony as it should be; openai-harmony is the oracle."""

import random

import pytest
from openai_harmony import Message, Role

from router.harmony.deltas import MessageBegun, MessageKind
from router.harmony.parse import HarmonyParser
from router.harmony.recipients import CallableTools
from router.harmony.system import harmony_encoding
from tests.router.harmony.harmony_text import TOKENIZER, WEATHER, deltas_of, ids_of, messages_of, parsed

CALL = '<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{"city":"Oslo"}<|call|>'
TEXTS = (
    "Hello",
    "Größe: 3 µm",
    "emoji 😀👩‍👩‍👧 and 漢字",
    "a <|not a token|> b",
    "line\n\nline",
    '{"a": [1, 2]}',
    "x" * 300,
)


def test_reasoning_and_answer_are_told_apart() -> None:
    text = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Hi.<|return|>"

    assert parsed(text) == ["reasoning: Hm. | end", "answer: Hi. | return"]


def test_a_call_is_a_call_wherever_its_recipient_stands() -> None:
    before = ' to=functions.get_weather<|channel|>commentary <|constrain|>json<|message|>{"city":"Oslo"}<|call|>'

    assert parsed(CALL) == parsed(before) == ['call get_weather: {"city":"Oslo"} | call']


def test_a_preamble_is_visible_and_the_call_after_it_is_a_call() -> None:
    text = "<|channel|>commentary<|message|>Let me look.<|end|><|start|>assistant" + CALL

    assert parsed(text) == ["preamble: Let me look. | end", 'call get_weather: {"city":"Oslo"} | call']


def test_code_for_python_comes_as_json_arguments() -> None:
    """The JSON is written piece by piece; quotes and newlines of the code are escaped."""
    text = '<|channel|>analysis to=python code<|message|>print("é")\n<|call|>'

    assert parsed(text, CallableTools(has_python=True)) == [r'call python: {"code": "print(\"é\")\n"} | call']


def test_arguments_for_python_that_are_json_already_pass() -> None:
    text = '<|channel|>analysis to=python <|constrain|>json<|message|>{"code": "1"}<|call|>'

    assert parsed(text, CallableTools(has_python=True)) == ['call python: {"code": "1"} | call']


def test_a_function_of_that_name_takes_what_is_meant_for_python() -> None:
    text = "<|channel|>analysis to=python code<|message|>print(1)<|call|>"

    assert parsed(text, CallableTools(frozenset({"python"}))) == ["call python: print(1) | call"]


def test_reasoning_tokens_are_those_of_its_text() -> None:
    parser = HarmonyParser(TOKENIZER.token_bytes, WEATHER)
    reasoning = "Two and two are four."

    parser.push_all(ids_of(f"<|channel|>analysis<|message|>{reasoning}<|end|><|start|>assistant<|channel|>final"))
    parser.push_all(ids_of("<|message|>4<|return|>"))

    assert parser.num_reasoning_tokens == len(TOKENIZER.encode(reasoning))


def test_positions_name_each_text_token_once_and_those_of_headers_never() -> None:
    header = ids_of("<|channel|>final<|message|>")
    answer = ids_of("emoji 😀👩‍👩‍👧 done<|return|>")
    parser = HarmonyParser(TOKENIZER.token_bytes, WEATHER)

    deltas = parser.push_all([*header, *answer])

    assert isinstance(deltas[0], MessageBegun)
    assert deltas[0].kind is MessageKind.ANSWER
    positions = [at for delta in deltas for at in getattr(delta, "positions", ())]
    assert positions == list(range(len(header), len(header) + len(answer) - 1))


@pytest.mark.parametrize("seed", range(60))
def test_a_random_turn_reads_like_openai_harmony_reads_it(seed: int) -> None:
    ids = _random_turn(random.Random(seed))
    library = harmony_encoding().parse_messages_from_completion_tokens(ids, Role.ASSISTANT)

    ours = [line.rpartition(" | ")[0] for line in messages_of(deltas_of(ids))]

    assert ours == [_line(message) for message in library]


def _random_turn(rng: random.Random) -> list[int]:
    """Return the ids of one to five well-formed messages."""
    headers = (
        "<|channel|>analysis",
        "<|channel|>commentary",
        "<|channel|>final",
        "<|channel|>commentary to=functions.get_weather <|constrain|>json",
        " to=functions.get_time<|channel|>commentary json",
        " to=functions.get_time<|channel|>analysis code",
    )
    ids: list[int] = []
    for _ in range(rng.randint(1, 5)):
        ids += ids_of("<|start|>assistant") if ids else []
        body = " ".join(rng.choices(TEXTS, k=rng.randint(1, 4)))
        ids += ids_of(rng.choice(headers) + "<|message|>") + TOKENIZER.encode(body)
        ids += ids_of(rng.choice(("<|end|>", "<|call|>", "<|return|>")))
    return ids


def _line(message: Message) -> str:
    """Return a message of the library as `messages_of` would."""
    text = message.content[0].to_dict()["text"]
    if message.recipient is not None:
        return f"call {message.recipient.removeprefix('functions.')}: {text}"
    kinds = {"analysis": "reasoning", "commentary": "preamble", "final": "answer"}
    return f"{kinds[str(message.channel)]}: {text}"
