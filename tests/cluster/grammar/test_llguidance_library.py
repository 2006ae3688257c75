"""What llguidance makes of grammars: what it allows, what is refused and where, and that no grammar is too much."""

import json
import subprocess
import sys
from typing import Any

import pytest

from cluster.errors import GrammarRefused
from cluster.grammar.constraint import GrammarKind, GrammarSpec
from cluster.grammar.limits import GrammarLimits
from cluster.grammar.llguidance_library import LlGuidance
from cluster.grammar.matcher import GrammarMatcher
from model.token_mask import allowed_ids
from model.tokenizer import Tokenizer
from model.vocabulary import NUM_RANKS

TOKENIZER = Tokenizer()
LIBRARY = LlGuidance(GrammarLimits())


def compiled(kind: GrammarKind, text: Any, is_lenient: bool = False) -> GrammarMatcher:
    text = text if isinstance(text, str) else json.dumps(text)
    return LIBRARY.compile(GrammarSpec(kind, text, is_lenient, "f"))


def accepts(kind: GrammarKind, grammar: Any, text: str, is_lenient: bool = False) -> bool:
    matcher = compiled(kind, grammar, is_lenient)
    return all(matcher.advance(token_id) for token_id in TOKENIZER.encode(text)) and matcher.is_accepting


JSON, REGEX, CHOICE, LARK = GrammarKind.JSON_SCHEMA, GrammarKind.REGEX, GrammarKind.CHOICE, GrammarKind.LARK
POINT = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"], "additionalProperties": False}


@pytest.mark.parametrize(
    ("kind", "grammar", "text", "is_accepted"),
    [
        (JSON, POINT, '{"x": 1}', True),
        (JSON, POINT, '{\n    "x": 1\n}', True),
        (JSON, POINT, '{"x":1', False),
        (JSON, POINT, '{"x":1.5}', False),
        (JSON, POINT, '{"x":1,"y":2}', False),
        (JSON, POINT, '{"x":' + " " * 40 + "1}", False),
        (JSON, {"type": "object"}, '{"any": [1, {"thing": null}]}', True),
        (JSON, {"type": "object"}, "[]", False),
        (JSON, {"$defs": {"n": {"anyOf": [{"const": 1}, {"$ref": "#/$defs/n"}]}}, "$ref": "#/$defs/n"}, "1", True),
        (REGEX, r"\d{3}-[a-z]+", "123-abc", True),
        (REGEX, r"\d{3}-[a-z]+", "123-ab1", False),
        (CHOICE, ["yes", "no"], "yes", True),
        (CHOICE, ["yes", "no"], "maybe", False),
        (CHOICE, ['"quoted"', "back\\slash", "two\nlines", "é👍", "<|end|>", "\x01"], "<|end|>", True),
        (CHOICE, ['"quoted"', "back\\slash", "two\nlines", "é👍", "<|end|>", "\x01"], "two\nlines", True),
        (LARK, 'start: "a" NUMBER\nNUMBER: /[0-9]+/', "a12", True),
        (LARK, 'start: "a" NUMBER\nNUMBER: /[0-9]+/', "a", False),
        (LARK, 'root ::= "a" item\nitem ::= [0-9]+', "a12", True),
    ],
)  # fmt: skip
def test_a_text_is_allowed_if_it_matches(kind: GrammarKind, grammar: Any, text: str, is_accepted: bool) -> None:
    assert accepts(kind, grammar, text) is is_accepted


ANY_OBJECTS = [
    "{}",
    "{ }",
    '\n{\n\t"a" :\r\n  1\n}\n',
    '{"a": [1, -2.5E+3, 0, true, false, null, {}, [ ]], "a": {"b": "\x7f"}}',
    json.dumps({"caf\u00e9 \U0001f600": 'line\n\t"quoted" \\ \x00 \u2014 \U0001f600'}),
    json.dumps({"caf\u00e9 \U0001f600": "\u2014 \U0001f600"}, ensure_ascii=False, indent=4),
    '{"a":' * 200 + "1" + "}" * 200,
]
NO_OBJECTS = [
    *("", "[]", "1", "null", "{", "{'a':1}", "{a:1}", '{"a"}', '{"a":1,}', '{"a":1,,"b":2}', '{"a":1}}', '{"a":1} x'),
    *('{"a":01}', '{"a":.5}', '{"a":+1}', '{"a":NaN}', '{"a":"\n"}', r'{"a":"\x"}', r'{"a":"\ud83d"}'),
]
FILLED = ["{" + " " * 9 + "}", "{" + "\n" * 3 + "}", '{"a":1}' + "\n" * 3]


@pytest.mark.parametrize("text", ANY_OBJECTS)
def test_any_object_may_be_written_in_any_valid_way(text: str) -> None:
    assert isinstance(json.loads(text), dict)
    assert accepts(GrammarKind.JSON_OBJECT, "", text)


@pytest.mark.parametrize("text", NO_OBJECTS + FILLED)
def test_what_is_no_object_or_is_filled_with_blanks_is_not_allowed(text: str) -> None:
    assert not accepts(GrammarKind.JSON_OBJECT, "", text)


def test_a_long_object_reaches_no_limit() -> None:
    matcher = compiled(GrammarKind.JSON_OBJECT, "")
    text = json.dumps({f"key {number}": [number, {"nested": "text"}] for number in range(400)})

    for token_id in TOKENIZER.encode(text):
        assert matcher.words().any()
        assert matcher.advance(token_id)

    assert matcher.failure is None
    assert matcher.is_accepting


@pytest.mark.parametrize(
    ("kind", "grammar", "place"),
    [
        (JSON, {"type": "object", "properties": {"a": {"items": {"not": {"type": "string"}}}}},
         "f.properties.a.items.not"),
        (JSON, {"type": "array", "uniqueItems": True}, "f.uniqueItems"),
        (JSON, {"if": {"type": "string"}, "then": {"minLength": 1}}, "f.if"),
        (JSON, {"properties": {"a": {"oneOf": [{}, {}]}}}, "f.properties.a.oneOf"),
        (JSON, {"anyOf": [{"type": "null"}, {"type": "string", "pattern": "(?=a)b"}]}, "f.anyOf[1].pattern"),
        (JSON, {"type": "string", "pattern": "(a"}, "f.pattern"),
        (JSON, {"$defs": {"X": {"type": "string", "format": "x"}}, "properties": {"a": {"$ref": "#/$defs/X"}}},
         "f.$defs.X.format"),
        (JSON, {"properties": {"a": {"$ref": "#/$defs/no"}}}, "f.properties.a.$ref"),
        (JSON, {"$ref": "http://other.example/schema"}, "f.$ref"),
        (JSON, {"properties": {"a": {"type": "strin"}}}, "f.properties.a.type"),
        (JSON, {"prefixItems": [{"type": "integer"}, {"contains": {}}]}, "f.prefixItems[1].contains"),
        (JSON, {"type": "integer", "minimum": 5, "maximum": 3}, "f.minimum"),
        (JSON, {"enum": []}, "f"),
        (JSON, "[1]", "f"),
        (JSON, "{", "f"),
        (JSON, '{"a":' * 70 + "1" + "}" * 70, "f"),
        (JSON, {"description": "x" * 70_000}, "f"),
        (REGEX, "(a", "f"),
        (REGEX, "(?=a)b", "f"),
        (REGEX, "a" * 20_000, "f"),
        (LARK, "start: foo", "f"),
        (LARK, "root ::= foo", "f"),
        (LARK, "nonsense", "f"),
        (LARK, 'start: a\na: a', "f"),
        (LARK, "start: <|end|>", "f"),
        (LARK, "start: <[200007]>", "f"),
        (LARK, "start: " + "(" * 2000 + '"a"' + ")" * 2000, "f"),
    ],
)  # fmt: skip
def test_a_refusal_names_the_place(kind: GrammarKind, grammar: Any, place: str) -> None:
    with pytest.raises(GrammarRefused) as refused:
        compiled(kind, grammar)

    where, _, why = str(refused.value).partition(": ")
    assert where == place
    assert 3 < len(why) <= 300
    assert "\n" not in why


def test_limits_are_named() -> None:
    for grammar, name in (('{"a":' * 70 + "1" + "}" * 70, "max_schema_depth"), (" " * 70_000, "max_schema_chars")):
        with pytest.raises(GrammarRefused, match=name):
            compiled(JSON, grammar)
    with pytest.raises(GrammarRefused, match="max_grammar_chars"):
        compiled(REGEX, "a" * 17_000)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}}},
        {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "integer"}, "format": "what"}}},
        {"type": "object", "properties": {"a": {"oneOf": [{"type": "array"}, {"maxItems": 3}]}}},
    ],
)
def test_what_is_lenient_is_held_to_what_can_be_enforced(schema: dict[str, Any]) -> None:
    assert accepts(JSON, schema, '{"a": [1, 1]}', is_lenient=True)
    assert not accepts(JSON, schema, '["a"]', is_lenient=True)


def test_what_is_lenient_and_cannot_be_enforced_at_all_is_an_object() -> None:
    assert accepts(JSON, {"type": "object", "properties": {"a": {"$ref": "#/no"}}}, '{"b": 1}', is_lenient=True)


def test_no_grammar_allows_a_control_token() -> None:
    for matcher in (compiled(REGEX, "(.|\n)*"), compiled(LARK, "start: /.*/"), compiled(JSON, {})):
        assert allowed_ids(matcher.words()).max() < NUM_RANKS


def test_a_matcher_rolled_back_says_what_it_said() -> None:
    matcher = compiled(JSON, POINT)
    said = [matcher.words().tobytes()]
    token_ids = TOKENIZER.encode('{"x": 12}')
    for token_id in token_ids:
        assert matcher.advance(token_id)
        said.append(matcher.words().tobytes())
    for at in range(len(token_ids), 0, -1):
        assert not matcher.advance(TOKENIZER.encode("zzz")[0])
        assert matcher.words().tobytes() == said[at]
        matcher.roll_back(1)
        assert matcher.words().tobytes() == said[at - 1]


BOMBS = {
    "rules": (LARK, 'start: a0\n' + "\n".join(f"a{i}:a{i + 1}" for i in range(1400)) + '\na1400: "x"'),
    "terminals": (LARK, "start: A0\n" + "\n".join(f"A{i}:A{i + 1}" for i in range(1400)) + '\nA1400: "x"'),
    "doubling": (LARK, "start: A\n" + "\n".join(f"A{i or ''}: A{i + 1} A{i + 1}" for i in range(40)) + '\nA40: "x"'),
    "nesting": (LARK, "start: A0\n" + "\n".join(f'A{i}: "a" A{i + 1} "b"?' for i in range(400)) + '\nA400: "x"'),
    "references": (JSON, json.dumps({"$defs": {f"a{i}": {"items": {"$ref": f"#/$defs/a{i + 1}"}} for i in range(1400)}
                                     | {"a1400": {}}, "$ref": "#/$defs/a0"})),
    "alternatives": (JSON, json.dumps({"anyOf": [{"type": "string", "minLength": i} for i in range(1500)]})),
    "patterns": (JSON, json.dumps({"allOf": [{"type": "string", "pattern": f"^(a|b)*a.{{{i}}}$"} for i in range(25)]})),
    "repeats": (REGEX, "(((a{1,100}){1,100}){1,100}){1,100}"),
    "counting": (REGEX, "a{4294967295}"),
    "backtracking": (REGEX, "(a|aa)+" * 200 + "b"),
    "optionals": (REGEX, "a?" * 8000),
    "brackets": (REGEX, "(" * 8000 + "a" + ")" * 8000),
}  # fmt: skip
_RUN_BOMB = """
import json, sys, threading
from cluster.engine.sequence import SequenceRequest
from cluster.grammar.compiler import GrammarCompiler
from cluster.grammar.constraint import Constraint, GrammarKind, GrammarSpec, MessageShape
from cluster.grammar.limits import GrammarLimits
from cluster.grammar.llguidance_library import LlGuidance
from model.sampling_params import SamplingParams
from model.token_mask import allowed_ids
compiler = GrammarCompiler(GrammarLimits(compile_timeout_s=4), 201088, LlGuidance)
for place, (kind, text) in enumerate(json.load(sys.stdin)):
    spec = GrammarSpec(GrammarKind(kind), text, origin="f")
    constraint = Constraint((MessageShape(((),), (200002,), is_last=True, body=spec),))
    done, told = threading.Event(), []
    request = SequenceRequest(f"s{place}", (1,), SamplingParams(max_tokens=9, seed=1))
    compiler.submit(request, constraint, lambda one: (told.append(one), done.set()))
    assert done.wait(60)
    guide = told[0].guide
    for _ in range(50 if guide is not None else 0):
        ids = allowed_ids(guide.mask())
        if guide.failure or not ids.size:
            break
        guide.advance(int(ids[len(ids) // 3]))
    print(told[0].refusal or (guide and guide.failure) or "runs", flush=True)
"""


@pytest.mark.slow
def test_no_grammar_ends_the_process() -> None:
    """Deep, wide and counting grammars, compiled on a compile thread and walked on another as an engine does."""
    given = json.dumps(list(BOMBS.values()))
    run = subprocess.run(
        [sys.executable, "-c", _RUN_BOMB], input=given, capture_output=True, text=True, timeout=240, check=False
    )

    assert run.returncode == 0, run.stderr[-500:]
    assert len(run.stdout.splitlines()) == len(BOMBS)
