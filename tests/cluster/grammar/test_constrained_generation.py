"""A model of random weights, whose words are garbage, writes what its constraint says: valid JSON, and nothing else.

Whatever runs beside it, however it is cut into chunks, preempted, or resumed after half of it was released, it writes
the same tokens.
"""

import json
import random
import re
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from decimal import Decimal
from typing import Any

import jsonschema
import pytest

from cluster.config import AttentionSection, EngineSection, ModelSection, NumericsSection
from cluster.engine.sequence import FinishReason, SequenceRequest, TokenEvent
from cluster.grammar.constraint import GrammarKind, GrammarSpec
from cluster.model_source import open_model
from cluster.standalone import Standalone, StandaloneSections
from model.checkpoint.checkpoint import Checkpoint
from model.checkpoint.write import write_random_checkpoint
from model.sampling_params import SamplingParams
from model.tokenizer import Tokenizer
from model.vocabulary import END, RETURN, VOCAB_SIZE
from router.harmony.conversation import Conversation, FunctionTool, ToolMode, UserTurn
from router.harmony.render import Renderer
from router.structured.turn import text_constraint
from tests.cluster.grammar.random_schemas import random_schema
from tests.support.random_model import random_config

TOKENIZER = Tokenizer()
NUM_SCHEMAS = 12
MAX_TOKENS = 1500
SHORT_REASONING = ((END, 18.0),)
"""Random weights would reason for ever: this makes the end of a text as likely as all other tokens together."""
CONFIG = random_config(
    num_layers=2, num_experts=4, hidden_size=32, intermediate_size=32, num_heads=2, num_kv_heads=1, head_dim=16,
    vocab_size=VOCAB_SIZE, eos_token_ids=(200_002, 199_999, 200_012), pad_token_id=199_999, max_positions=4096,
)  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_model(str(write_random_checkpoint(tmp_path_factory.mktemp("model") / "random", CONFIG, seed=3)))


@pytest.fixture(scope="module")
def standalone(checkpoint: Checkpoint) -> Generator[Standalone]:
    with load(checkpoint) as running:
        yield running


def load(checkpoint: Checkpoint, **engine: Any) -> Standalone:
    engine = {"kv_cache_bytes": 40_000_000, "max_running_sequences": 16} | engine
    return Standalone.of(
        checkpoint,
        StandaloneSections(
            ModelSection(max_context_tokens=2048), NumericsSection(), EngineSection(**engine), AttentionSection()
        ),
    )


def run_all(standalone: Standalone, requests: list[SequenceRequest]) -> dict[str, list[TokenEvent]]:
    """Run requests at the same time; return their events."""
    readers = [standalone.generate(request, timeout_s=240.0) for request in requests]
    # A generator admits with its first event; the others are admitted meanwhile, so start them all first.
    firsts = _first_events(readers)
    return {request.sequence_id: [first, *rest] for request, first, rest in zip(requests, firsts, readers, strict=True)}


def _first_events(readers: list[Generator[TokenEvent]]) -> list[TokenEvent]:

    with ThreadPoolExecutor(len(readers)) as pool:
        return list(pool.map(next, readers))


def tokens(events: list[TokenEvent]) -> list[int]:
    return [token_id for event in events for token_id in event.token_ids]


def answer_of(events: list[TokenEvent]) -> str:
    """Return the text of the final message; the turn must have ended with it."""
    assert events[-1].finish_reason is FinishReason.STOP, events[-1]
    turn = TOKENIZER.decode(tokens(events))
    found = re.fullmatch(r"(?s).*<\|channel\|>final( <\|constrain\|>json)?<\|message\|>(.*)<\|return\|>", turn)
    assert found is not None, turn[-200:]
    return found[2]


def schema_request(name: str, schema: Any, is_held: bool = True, **fields: Any) -> SequenceRequest:
    grammar = GrammarSpec(GrammarKind.JSON_SCHEMA, json.dumps(schema), origin="f")
    prompt = Renderer(TOKENIZER).render(Conversation((UserTurn("Say."),), answer_grammar=grammar), "2026-01-01")
    values: dict[str, Any] = {"max_tokens": MAX_TOKENS, "seed": 1, "temperature": 1.5, "logit_bias": SHORT_REASONING}
    params = SamplingParams(**(values | fields), stop_token_ids=prompt.stop_ids)
    return SequenceRequest(name, prompt.token_ids, params, constraint=prompt.constraint if is_held else None)


def is_valid(text: str, schema: Any) -> bool:
    try:
        value = json.loads(text, parse_float=Decimal)  # a text may have more digits than a float
    except ValueError:
        return False
    draft = jsonschema.Draft202012Validator
    return draft(schema, format_checker=draft.FORMAT_CHECKER).is_valid(value)


def test_answers_of_random_weights_follow_random_schemas(standalone: Standalone) -> None:
    schemas = {f"s{seed}": random_schema(random.Random(seed)) for seed in range(NUM_SCHEMAS)}
    requests = [schema_request(name, schema, seed=place) for place, (name, schema) in enumerate(schemas.items())]

    events = run_all(standalone, requests)

    for name, schema in schemas.items():
        answer = answer_of(events[name])
        assert is_valid(answer, schema), (schema, answer)


def test_without_the_constraint_the_same_requests_write_garbage(standalone: Standalone) -> None:
    schemas = {f"s{seed}": random_schema(random.Random(seed)) for seed in range(4)}
    requests = [schema_request(name, schema, is_held=False, max_tokens=60) for name, schema in schemas.items()]

    events = run_all(standalone, requests)

    assert not any(is_valid(TOKENIZER.decode(tokens(events[name])), schema) for name, schema in schemas.items())


POINT = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "at": {"type": "array", "items": {"type": "integer", "minimum": -999, "maximum": 999}, "maxItems": 4},
    },
    "required": ["name", "at"],
    "additionalProperties": False,
}
SETTINGS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.0},
    {"top_p": 0.9},
    {"top_k": 40},
    {"min_p": 0.2},
    {"frequency_penalty": 1.0, "repetition_penalty": 1.3},
    {"num_logprobs": 2},
    {"choice": 1},
    {"choice": 2},
]


def point_requests() -> list[SequenceRequest]:
    return [schema_request(f"p{place}", POINT, seed=5, **fields) for place, fields in enumerate(SETTINGS)]


@pytest.fixture(scope="module")
def alone(standalone: Standalone) -> dict[str, list[int]]:
    """Return what each request writes with the engine for itself."""
    return {one.sequence_id: tokens(list(standalone.generate(one, 120.0))) for one in point_requests()}


def test_every_way_to_sample_stays_within_the_constraint(standalone: Standalone) -> None:
    events = run_all(standalone, point_requests())

    for place, fields in enumerate(SETTINGS):
        assert is_valid(answer_of(events[f"p{place}"]), POINT), fields
    assert len({tuple(tokens(events[f"p{place}"])) for place in (0, 7, 8)}) == 3, "choices draw for themselves"
    assert all(len(event.logprobs) == len(event.token_ids) for event in events["p6"])


def test_a_batch_changes_no_token(standalone: Standalone, alone: dict[str, list[int]]) -> None:
    free = [
        replace(schema_request(f"free{place}", POINT, is_held=False, max_tokens=40, seed=place)) for place in range(3)
    ]

    events = run_all(standalone, [*point_requests(), *free])

    assert {name: tokens(events[name]) for name in alone} == alone


@pytest.mark.parametrize("max_step_tokens", [9, 23])
def test_chunks_and_preemptions_change_no_token(
    checkpoint: Checkpoint, alone: dict[str, list[int]], max_step_tokens: int
) -> None:
    """The cache holds some 400 tokens: nine sequences of more than a hundred push each other out."""
    small = {"max_step_tokens": max_step_tokens, "kv_cache_bytes": 45_000, "max_running_sequences": 9}
    with load(checkpoint, **small) as crowded:
        events = run_all(crowded, point_requests())
        stats = crowded.engine.stats()
        crowded.engine.check_integrity()

    assert {name: tokens(events[name]) for name in alone} == alone
    assert stats.num_preemptions > 0


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_resume_goes_on_with_the_same_tokens(
    standalone: Standalone, alone: dict[str, list[int]], share: float
) -> None:
    resumed: list[SequenceRequest] = []
    for one in point_requests():
        released = tuple(alone[one.sequence_id][: int(share * len(alone[one.sequence_id]))])
        resumed.append(replace(one, prompt_ids=one.prompt_ids + released, num_released=len(released), attempt=1))

    events = run_all(standalone, resumed)

    for one in resumed:
        assert tokens(events[one.sequence_id]) == alone[one.sequence_id][one.num_released :]


def test_released_output_of_another_form_is_refused(standalone: Standalone) -> None:
    one = schema_request("r", POINT)
    events = run_all(standalone, [replace(one, prompt_ids=(*one.prompt_ids, 5), num_released=1)])["r"]

    assert events[-1].finish_reason is FinishReason.REFUSED
    assert events[-1].error is not None
    assert events[-1].error.startswith("f: ")


@pytest.mark.parametrize(
    ("kind", "grammar", "matches"),
    [
        (GrammarKind.REGEX, r"[a-c]{3}-\d{2}", lambda text: re.fullmatch(r"[a-c]{3}-\d{2}", text)),
        (GrammarKind.CHOICE, '["left", "right side"]', lambda text: text in {"left", "right side"}),
        (GrammarKind.LARK, 'start: "<" ITEM ("," ITEM){2} ">"\nITEM: /[xyz]{1,3}/',
         lambda text: re.fullmatch("<[xyz]{1,3}(,[xyz]{1,3}){2}>", text)),
        (GrammarKind.REGEX, "", lambda text: text == ""),
    ],
)  # fmt: skip
def test_texts_match_their_grammar_from_the_first_token(
    standalone: Standalone, kind: GrammarKind, grammar: str, matches: Callable[[str], object]
) -> None:
    constraint = text_constraint(GrammarSpec(kind, grammar, origin="g"))
    params = SamplingParams(max_tokens=60, seed=0, temperature=1.5, min_tokens=40 if grammar else 0)
    requests = [
        SequenceRequest(f"t{seed}", (1, 2, 3), replace(params, seed=seed), constraint=constraint) for seed in range(4)
    ]

    for events in run_all(standalone, requests).values():
        assert events[-1].finish_reason is FinishReason.STOP
        assert tokens(events)[-1] in {RETURN, 199_999}
        assert matches(TOKENIZER.decode(tokens(events)[:-1])), TOKENIZER.decode(tokens(events))


@pytest.mark.parametrize("is_strict", [False, True])
def test_a_required_call_is_one_of_those_offered_with_arguments_by_its_schema(
    standalone: Standalone, is_strict: bool
) -> None:
    tools = tuple(FunctionTool(name, "", POINT, is_strict) for name in ("f", "get.weather"))
    conversation = Conversation((UserTurn("Say."),), tools, tool_mode=ToolMode.REQUIRED)
    prompt = Renderer(TOKENIZER).render(conversation, "2026-01-01")
    params = SamplingParams(
        max_tokens=400, seed=0, temperature=1.5, stop_token_ids=prompt.stop_ids, logit_bias=SHORT_REASONING
    )
    requests = [
        SequenceRequest(f"c{seed}", prompt.token_ids, replace(params, seed=seed), constraint=prompt.constraint)
        for seed in range(6)
    ]

    for events in run_all(standalone, requests).values():
        turn = TOKENIZER.decode(tokens(events))
        found = re.search(r"(?s)to=functions\.(f|get\.weather)\b[^\n]*?<\|message\|>(.*)<\|call\|>$", turn)
        assert found is not None, turn
        assert is_valid(found[2], POINT), turn


def test_a_bad_grammar_is_refused_and_others_go_on(standalone: Standalone) -> None:
    bad = [schema_request(f"b{place}", {"not": {"const": place}}) for place in range(5)]

    events = run_all(standalone, [*bad, *point_requests()[:2]])

    assert {events[one.sequence_id][-1].error for one in bad} == {'f.not: not supported: ["not"]'}
    assert all(is_valid(answer_of(events[f"p{place}"]), POINT) for place in range(2))
    standalone.engine.check_integrity()


def test_a_sequence_that_is_aborted_while_it_is_compiled_is_gone(standalone: Standalone) -> None:
    wide = {"type": "object", "properties": {f"k{n}": {"type": "string"} for n in range(1500)}}
    reader = standalone.generate(schema_request("gone", wide), 60.0)
    standalone.engine.admit(schema_request("gone", wide))
    standalone.engine.abort("gone")
    reader.close()

    assert is_valid(answer_of(run_all(standalone, [schema_request("next", POINT)])["next"]), POINT)
    standalone.engine.check_integrity()
    assert standalone.engine.stats().num_waiting == 0
