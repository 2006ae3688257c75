"""Whatever tokens a model gives, each family's stream says what its whole answer says, and no visible text is lost.

The tokens are pieces of harmony in any order, with holes, and now and then any token at all; by seed.
"""

import json
import random
from functools import cache
from typing import Any

import pytest

from model.vocabulary import VOCAB_SIZE
from router.harmony.deltas import CallDelta, ContentDelta, ReasoningDelta
from router.harmony.parse import HarmonyParser
from router.harmony.recipients import CallableTools
from tests.router.api import test_messages as messages
from tests.router.api import test_ollama as ollama
from tests.router.api.test_openai_client import TOOLS
from tests.router.fakes.asgi_client import HI, AsgiClient
from tests.router.fakes.hand_backend import HandBackend
from tests.router.fakes.hand_server import TOKENIZER
from tests.router.fakes.scripts import turn

NUM_STREAMS = 120
PIECES = [
    "<|start|>assistant", "<|channel|>analysis", "<|channel|>commentary", "<|channel|>final", "<|message|>", "<|end|>",
    "<|call|>", "<|constrain|>json", " to=functions.get_weather", " to=functions.fly", "Some text. ", "naïve 😀 ",
    '{"city":', '"Oslo"}', "{}", "[1]", "\n", " ", "",
    "<|channel|>final<|message|>An answer.<|end|>", "<|start|>assistant<|channel|>analysis<|message|>Hm.<|end|>",
    '<|start|>assistant<|channel|>commentary to=functions.get_weather<|message|>{"city": "Rome"}<|end|>',
]  # fmt: skip


def random_ids(seed: int) -> list[int]:
    draw = random.Random(seed)
    ids = turn("".join(draw.choices(PIECES, k=draw.randint(0, 20))))
    for _ in range(draw.randint(0, 3)):
        ids.insert(draw.randint(0, len(ids)), draw.randrange(VOCAB_SIZE))
    return [token_id for token_id in ids if draw.random() > 0.03]


@cache
def shared() -> tuple[AsgiClient, HandBackend]:
    backend = HandBackend()
    return AsgiClient(backend), backend


def expected(ids: list[int], kind: Any) -> str:
    """Return all text of a kind that the parser finds in what the engine would give of `ids`."""
    parser = HarmonyParser(TOKENIZER.token_bytes, CallableTools(frozenset({"get_weather"})))
    stops = {200_002, 200_012, 199_999}
    end = next((place + 1 for place, token_id in enumerate(ids) if token_id in stops), len(ids))
    deltas: list[Any] = [*parser.push_all(ids[:end]), *parser.finish()]
    return "".join(delta.text for delta in deltas if isinstance(delta, kind))


@pytest.mark.parametrize("seed", range(NUM_STREAMS))
def test_a_random_stream_says_what_its_whole_answer_says(seed: int) -> None:
    client, backend = shared()
    ids = random_ids(seed)
    backend.__dict__.update(HandBackend(ids, tokens_per_event=seed % 3 + 1).__dict__)
    reasoning, content = expected(ids, ReasoningDelta), expected(ids, ContentDelta)

    told = ollama.chat(client, tools=TOOLS)
    assert told.status_code == 200
    streamed = ollama.folded(ollama.lines_of(ollama.chat(client, tools=TOOLS, stream=True)))
    assert ollama.without_ids(streamed) == ollama.without_ids(told.json())
    message = told.json()["message"]
    assert (_bare(message["content"]), _bare(message.get("thinking", ""))) == (_bare(content), _bare(reasoning))

    fields: Any = {"tools": messages.TOOLS, "thinking": messages.SHOWN, "messages": HI}
    whole = messages.without_ids(messages.post(client, **fields).json())
    events = messages.events_of(messages.post(client, **fields, stream=True))
    assert messages.without_ids(messages.folded(events)) == whole
    texts = {kind: "".join(block.get(kind, "") for block in whole["content"]) for kind in ("text", "thinking")}
    assert texts == {"text": content, "thinking": reasoning}
    calls = [block["input"] for block in whole["content"] if block["type"] == "tool_use"]
    assert calls == [one["function"]["arguments"] for one in message.get("tool_calls", [])]
    assert bool(calls) >= bool(expected(ids, CallDelta))


def test_the_random_streams_reach_what_they_are_for() -> None:
    """Among them are calls, broken arguments, thinking and several messages; else equality would say little."""
    client, backend = shared()
    seen: set[str] = set()
    for seed in range(NUM_STREAMS):
        backend.__dict__.update(HandBackend(random_ids(seed)).__dict__)
        content = messages.post(client, tools=messages.TOOLS, thinking=messages.SHOWN).json()["content"]
        seen |= {block["type"] for block in content} | ({"several"} if len(content) > 2 else set())
        seen |= {"broken" for block in content if "INVALID_JSON" in json.dumps(block)}
    assert seen == {"text", "thinking", "tool_use", "several", "broken"}


def _bare(text: str) -> str:
    """Return text without the breaks that stand between messages where they become one."""
    return text.replace("\n\n", "")
