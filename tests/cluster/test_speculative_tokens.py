"""Real models that guess ahead from their own text: the same ids, logprobs, digests and endings as without."""

import json
from dataclasses import replace
from typing import Any

import pytest

from cluster.config import AttentionSection, EngineSection, ModelSection, NumericsSection, SpeculationSection
from cluster.engine.sequence import SequenceRequest, TokenEvent
from cluster.engine.stats import EngineStats
from cluster.grammar.constraint import GrammarKind, GrammarSpec
from cluster.standalone import Standalone, StandaloneSections
from model.checkpoint.random_weights import RandomWeights
from model.checkpoint.weights import WeightSource
from model.sampling_params import SamplingParams
from model.tokenizer import Tokenizer
from router.harmony.conversation import Conversation, FunctionTool, UserTurn
from router.harmony.render import Renderer
from tests.support.engine_events import collect
from tests.support.random_model import random_config

EAGER = SpeculationSection(max_draft_tokens=6, ngram_tokens=1, row_cost_fraction=0.0)
"""One token that stood there before is enough to guess, and after the first hit every guess is drafted."""


def _standalone(
    weights: WeightSource | None, speculation: SpeculationSection, kv_cache_dtype: str = "auto", **engine: Any
) -> Standalone:
    settings: dict[str, Any] = {"kv_cache_bytes": 20_000_000, "logit_digests": True, "max_running_sequences": 8}
    sections = StandaloneSections(
        ModelSection(path="tiny", max_context_tokens=512),
        NumericsSection.model_validate({"dense_weights": "float32", "kv_cache_dtype": kv_cache_dtype}),
        EngineSection(speculation=speculation, **settings | engine),
        AttentionSection(),
    )
    return Standalone.load(sections) if weights is None else Standalone.of(weights, sections)


def _requests(vocab: int, max_tokens: int, temperature: float) -> list[SequenceRequest]:
    """Prompts that say the same over and over, and output with reasons of every kind to change or to end."""
    kinds: list[dict[str, Any]] = [
        {"num_logprobs": 2},
        {"top_p": 0.9, "frequency_penalty": 0.05},
        {"top_k": 20, "repetition_penalty": 1.05},
        {"min_p": 0.02, "logit_bias": ((7, 1.0), (11, -100.0)), "num_logprobs": 0},
        {"presence_penalty": 0.3, "stop": ("e e", "zz")},
    ]
    return [
        SequenceRequest(
            f"s{number}",
            tuple((3 + number + place % (4 + number)) % vocab for place in range(10 + 23 * (number % 4))),
            SamplingParams(
                max_tokens=max_tokens,
                seed=number,
                choice=number % 3,
                temperature=temperature,
                ignore_eos=number % 4 > 0,
                **kinds[number % 5],
            ),
        )
        for number in range(7)
    ]


def _told(standalone: Standalone, requests: list[SequenceRequest]) -> tuple[dict[str, Any], EngineStats]:
    """Return all tokens with logprobs and digests and the endings, and what the engine counted."""
    events, stats = collect(standalone, requests)
    return _all_told(events), stats


def _all_told(events: dict[str, list[TokenEvent]]) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for name, own in events.items():
        tokens = [token for event in own for token in event.token_ids]
        logprobs = [logprob for event in own for logprob in event.logprobs]
        digests = [digest for event in own for digest in event.digests]
        told[name] = tokens, logprobs, digests, own[-1].finish_reason, own[-1].stop_reason
        assert len(digests) == len(tokens) > 0
    return told


def _assert_same(weights: WeightSource | None, requests: list[SequenceRequest], **engine: Any) -> EngineStats:
    plain, without = _told(_standalone(weights, SpeculationSection(), **engine), requests)
    told, stats = _told(_standalone(weights, EAGER, **engine), requests)
    assert without.num_drafted == 0
    assert told == plain
    assert stats.num_tokens >= sum(len(tokens) for tokens, *_ in plain.values())
    return stats


@pytest.mark.parametrize("temperature", [0.0, 0.4])
def test_the_tiny_model_says_the_same_when_it_guesses_ahead(temperature: float) -> None:
    stats = _assert_same(None, _requests(200_000, 40, temperature))
    assert stats.num_accepted > 0
    assert stats.num_drafted > stats.num_accepted


@pytest.mark.parametrize("kv_cache_dtype", ["auto", "int8"])
@pytest.mark.parametrize("temperature", [0.0, 0.3])
def test_random_weights_say_the_same_when_they_guess_ahead_in_small_steps(
    temperature: float, kv_cache_dtype: str
) -> None:
    weights = RandomWeights(random_config(sliding_window=24), seed=5)
    requests = _requests(200, 60, temperature)
    stats = _assert_same(weights, requests, max_step_tokens=13, kv_cache_dtype=kv_cache_dtype)
    assert stats.num_drafted > stats.num_accepted > 0


def test_guesses_in_a_scarce_cache_change_no_bit_when_sequences_are_preempted() -> None:
    weights = RandomWeights(random_config(sliding_window=24), seed=5)
    requests = [replace(one, params=replace(one.params, ignore_eos=True)) for one in _requests(200, 100, 0.3)]
    stats = _assert_same(weights, requests, kv_cache_bytes=450_000)
    assert stats.num_preemptions > 0
    assert stats.num_accepted > 0


def test_a_resumed_sequence_guesses_and_says_the_same() -> None:
    weights = RandomWeights(random_config(sliding_window=24), seed=5)
    requests = [replace(one, params=replace(one.params, stop=())) for one in _requests(200, 60, 0.3)[1:4]]
    plain, _ = _told(_standalone(weights, SpeculationSection()), requests)
    resumed = [
        replace(one, prompt_ids=(*one.prompt_ids, *plain[one.sequence_id][0][:20]), num_released=20, attempt=1)
        for one in requests
    ]
    told, _ = _told(_standalone(weights, EAGER), resumed)
    for one in requests:
        for whole, rest in zip(plain[one.sequence_id][:3], told[one.sequence_id][:3], strict=True):
            assert rest == whole[20:]


ONES = {"type": "array", "items": {"enum": [1]}, "minItems": 9, "maxItems": 30}
POINT = {"type": "object", "properties": {"at": ONES}, "required": ["at"], "additionalProperties": False}
CALL = "<|channel|>commentary to=functions.{}<|message|>"
HELD: dict[str, tuple[str, dict[str, Any]]] = {
    "names": ("", {"functions": (FunctionTool("get_weather", "", POINT), FunctionTool("get_weather_of", "", POINT))}),
    "strict": (CALL.format("f"), {"functions": (FunctionTool("f", "", POINT, is_strict=True),)}),
    "schema": (
        "<|channel|>final<|message|>",
        {"answer_grammar": GrammarSpec(GrammarKind.JSON_SCHEMA, json.dumps(ONES))},
    ),
    "object": (CALL.format("g"), {"functions": (FunctionTool("g", "", POINT),)}),
}
"""What requests are held to; and released output, so that what is to be tested comes at once."""


def _held_requests() -> list[SequenceRequest]:
    """Three of each kind, at temperatures from greedy to wild; a text that is free likes to say `a a a`."""
    tokenizer, requests = Tokenizer(), list[SequenceRequest]()
    likes = ((tokenizer.encode(" a")[0], 9.0),)
    for kind, (header, fields) in HELD.items():
        released = tuple(tokenizer.encode_with_special(header))
        question = UserTurn("What is the weather in Lisbon? Say [1, 1, 1, 1] and get_weather a a a.")
        prompt = Renderer(tokenizer).render(Conversation((question,), **fields), "2026-01-01")
        for number in range(3):
            params = SamplingParams(
                max_tokens=len(released) + 30, seed=number, temperature=number * 0.6, num_logprobs=1,
                stop_token_ids=prompt.stop_ids, logit_bias=likes if kind == "object" else (),
            )  # fmt: skip
            ids = (*prompt.token_ids, *released)
            name = f"{kind} {number}"
            requests.append(SequenceRequest(name, ids, params, len(released), constraint=prompt.constraint))
    return requests


def test_what_is_held_to_a_grammar_says_the_same_when_it_guesses_ahead() -> None:
    """Also where the cache is so scarce that sequences push each other out."""
    requests = _held_requests()
    plain, _ = _told(_standalone(None, SpeculationSection()), requests)
    events, _ = collect(_standalone(None, EAGER), requests)
    crowded, stats = _told(_standalone(None, EAGER, max_step_tokens=64, kv_cache_bytes=900_000), requests)

    assert _all_told(events) == plain
    assert crowded == plain
    assert stats.num_preemptions > 0
    for kind in HELD:
        kept = [len(event.token_ids) for name in events if name.startswith(kind) for event in events[name]]
        assert max(kept) > 1, f"no guess was kept of {kind}"
