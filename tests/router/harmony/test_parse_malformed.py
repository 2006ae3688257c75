"""Whatever the model writes: the pains that users of gpt-oss report, and headers of every broken kind."""

import pytest

from router.harmony.parse import HarmonyParser
from router.harmony.recipients import CallableTools
from tests.router.harmony.harmony_text import NOTHING, TOKENIZER, WEATHER, deltas_of, ids_of, messages_of, parsed

CHANNEL, MESSAGE, END, START = "<|channel|>", "<|message|>", "<|end|>", "<|start|>"
SORRY = "I'm sorry, but I can't help with that."
PYTHON = CallableTools(frozenset({"get_weather"}), has_python=True)

CASES = {
    "no header at all, as refusals come": (SORRY + "<|return|>", [f"answer: {SORRY} | return"]),
    "no header, and the tokens run out": (SORRY, [f"answer: {SORRY} | cut"]),
    "no header and no end but a blank before": ("\n\nHello.<|return|>", ["answer: \n\nHello. | return"]),
    "a first word that a header could have had": ("final answer is 4", ["answer: final answer is 4 | cut"]),
    "a message marker and nothing before it": (f"{MESSAGE}Hi<|return|>", ["answer: Hi | return"]),
    "start forgotten between two messages": (
        f"{CHANNEL}analysis{MESSAGE}a{END}commentary to=functions.get_time <|constrain|>json{MESSAGE}{{}}<|call|>",
        ["reasoning: a | end", "call get_time: {} | call"],
    ),
    "end forgotten before start": (
        f"{CHANNEL}analysis{MESSAGE}a{START}assistant{CHANNEL}final{MESSAGE}b<|return|>",
        ["reasoning: a | cut", "answer: b | return"],
    ),
    "end and start forgotten": (
        f"{CHANNEL}analysis{MESSAGE}a{CHANNEL}final{MESSAGE}b<|return|>",
        ["reasoning: a | cut", "answer: b | return"],
    ),
    "prose after an end": (
        f"{CHANNEL}analysis{MESSAGE}a{END}The answer is 4.<|return|>",
        ["reasoning: a | end", "answer: The answer is 4. | return"],
    ),
    "blanks after an end": (
        f"{CHANNEL}analysis{MESSAGE}a{END}\n{START}assistant{CHANNEL}final{MESSAGE}b<|return|>",
        ["reasoning: a | end", "answer: b | return"],
    ),
    "the role again": (f"{START}assistant{CHANNEL}final{MESSAGE}b<|return|>", ["answer: b | return"]),
    "role and channel in one word": (f"assistantfinal{MESSAGE}b<|return|>", ["answer: b | return"]),
    "analysis in words, then prose": ("analysis We think.<|return|>", ["reasoning: We think. | return"]),
    "an extra word in the header": (
        f"{CHANNEL}analysis to=functions.get_time code foo{MESSAGE}{{}}<|call|>",
        ["call get_time: {} | call"],
    ),
    "a blank in a tool's name": (
        f"{CHANNEL}commentary to=functions.get_time now{MESSAGE}{{}}<|call|>",
        ["call get_time: {} | call"],
    ),
    "a blank after to=": (
        f"{CHANNEL}commentary to= functions.get_time{MESSAGE}{{}}<|call|>",
        ["call get_time: {} | call"],
    ),
    "two ends": (f"{CHANNEL}final{MESSAGE}b<|return|><|return|>", ["answer: b | return"]),
    "end of text as the end": (f"{CHANNEL}final{MESSAGE}b<|endoftext|>", ["answer: b | return"]),
    "end in a header": (
        f"{CHANNEL}analysis{MESSAGE}a{END}{START}assistant{CHANNEL}fin<|return|>",
        ["reasoning: a | end"],
    ),
    "a header that never ends, with an answer": (
        f"{CHANNEL}final The answer.<|return|>",
        ["answer: The answer. | return"],
    ),
    "a header that never ends, with a call": (
        f'{CHANNEL}commentary to=functions.get_time json{{"a":1}}<|call|>',
        ['call get_time: {"a":1} | call'],
    ),
    "constrain as if it were a recipient": (
        f'{CHANNEL}final <|constrain|>json{MESSAGE}{{"a":1}}<|return|>',
        ['answer: {"a":1} | return'],
    ),
    "constrain without a blank": (
        f"{CHANNEL}commentary to=functions.get_time<|constrain|>json{MESSAGE}{{}}<|call|>",
        ["call get_time: {} | call"],
    ),
    "a channel inside of a recipient": (
        f"{CHANNEL}commentary to=assistant{CHANNEL}commentary{MESSAGE}Hi{END}",
        ["preamble: Hi | end"],
    ),
    "a channel after a role's recipient": (
        f" to=functions.get_time{CHANNEL}analysis{CHANNEL}commentary{MESSAGE}{{}}<|call|>",
        ["call get_time: {} | call"],
    ),
    "a decorated channel": (
        f"{CHANNEL}commentary? to=functions.get_time{MESSAGE}{{}}<|call|>",
        ["call get_time: {} | call"],
    ),
    "a misspelt channel": (f"{CHANNEL}analyis{MESSAGE}a{END}", ["reasoning: a | end"]),
    "an unknown channel": (f"{CHANNEL}whatever{MESSAGE}b<|return|>", ["answer: b | return"]),
    "a message without a channel": (f"{START}assistant{MESSAGE}b<|return|>", ["answer: b | return"]),
    "control tokens inside of a text": (
        f"{CHANNEL}final{MESSAGE}a{MESSAGE}b<|constrain|>c<|reserved_200011|>d<|return|>",
        ["answer: abcd | return"],
    ),
    "a result that the model invents": (
        f"{START}functions.get_time to=assistant{CHANNEL}commentary{MESSAGE}12:00{END}",
        ["reasoning: 12:00 | end"],
    ),
    "a browser's result that the model invents": (
        f"{START}browser.search to=assistant{CHANNEL}analysis{MESSAGE}found{END}",
        ["reasoning: found | end"],
    ),
    "a user that the model invents": (f"{START}user{MESSAGE}And now?{END}", ["reasoning: And now? | end"]),
    "arguments that are no JSON": (
        f"{CHANNEL}commentary to=functions.get_time{MESSAGE}{{'a': 1]]<|call|>",
        ["call get_time: {'a': 1]] | call"],
    ),
    "a call that ends like an answer": (
        f"{CHANNEL}commentary to=functions.get_time{MESSAGE}{{}}<|return|>",
        ["call get_time: {} | return"],
    ),
    "a call that is cut": (f"{CHANNEL}commentary to=functions.get_time{MESSAGE}{{", ["call get_time: { | cut"]),
    "several preambles": (
        f"{CHANNEL}commentary{MESSAGE}One.{END}{START}assistant{CHANNEL}commentary{MESSAGE}Two.{END}",
        ["preamble: One. | end", "preamble: Two. | end"],
    ),
    "nothing": ("", []),
    "an end and nothing else": ("<|return|>", []),
}


@pytest.mark.parametrize("name", CASES)
def test_broken_harmony_is_delivered(name: str) -> None:
    text, expected = CASES[name]

    assert parsed(text) == expected


@pytest.mark.parametrize(
    "recipient",
    [
        "functions.get_weather",
        "get_weather",
        "functions.functions.get_weather",
        "function.get_weather",
        "functions/get_weather",
        "Functions.get_weather",
        "functions.Get_Weather",
        "tools.get_weather",
        '"get_weather"',
        "get_weather,",
        "get_weather()",
        "functions.get_weather.",
    ],
)
def test_a_recipient_means_the_tool_that_was_offered(recipient: str) -> None:
    assert parsed(f"{CHANNEL}commentary to={recipient} json{MESSAGE}{{}}<|call|>") == ["call get_weather: {} | call"]


def test_a_channel_spelt_out_in_a_recipient_is_cut_off() -> None:
    """`<|channel|>` as seven ordinary characters, as users of several servers report it."""
    ids = [
        *ids_of(CHANNEL + "commentary to=functions.get_weather"),
        *TOKENIZER.encode("<|channel|>analysis"),
        *ids_of(MESSAGE + "{}<|call|>"),
    ]

    assert messages_of(deltas_of(ids, WEATHER)) == ["call get_weather: {} | call"]


@pytest.mark.parametrize(
    ("recipient", "name"),
    [("functions.fly", "fly"), ("browser.search", "browser.search"), ("python", "python"), ("functions.a/b c", "a_b")],
)
def test_a_tool_that_was_not_offered_is_called_by_the_name_that_the_model_wrote(recipient: str, name: str) -> None:
    assert parsed(f"{CHANNEL}analysis to={recipient} code{MESSAGE}x<|call|>") == [f"call {name}: x | call"]


@pytest.mark.parametrize("recipient", ["python", "functions.get_weather", "browser.open"])
@pytest.mark.parametrize("channel", ["analysis", "commentary"])
def test_a_call_where_nothing_may_be_called_is_content(recipient: str, channel: str) -> None:
    text = f"{CHANNEL}{channel} to={recipient} code{MESSAGE}print(1)<|call|>"

    assert parsed(text, NOTHING) == ["answer: print(1) | call"]


def test_prose_without_a_header_streams_from_its_first_words() -> None:
    """It is not held back until its end: what cannot be a header any more is shown."""
    parser = HarmonyParser(TOKENIZER.token_bytes, WEATHER)

    shown = [bool(parser.push(token_id)) for token_id in TOKENIZER.encode(SORRY)]

    assert all(shown)


@pytest.mark.parametrize("recipient", ["assistant", "user", "final", "all"])
def test_a_recipient_that_is_no_tool_changes_nothing(recipient: str) -> None:
    assert parsed(f"{CHANNEL}analysis to={recipient}{MESSAGE}a{END}", PYTHON) == ["reasoning: a | end"]
